// Called from each loop of llama.cpp's grammar code that a grammar can make long, and the regular
// expressions of its triggers.
#pragma once
#include <cstddef>
// Of the states that repetitions are written out to; no other code shares what this compiles.
#define _GLIBCXX_REGEX_STATE_LIMIT 10000
#include <iterator>
#include <regex>
#include <string>

// `elements` of a stack that is kept, 0 where none is. Throws when one call has taken too much.
void flexinfer_grammar_step(size_t elements);

// Called as often as a regular expression looks at the text. Throws when that has taken too much.
void flexinfer_trigger_step();

// A place in a text: the standard library's search has no bound, but looks at one in each of its steps.
struct flexinfer_place {
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char *;
    using reference = const char &;

    const char * at = nullptr;

    reference operator*() const {
        flexinfer_trigger_step();
        return *at;
    }
    flexinfer_place & operator++() {
        ++at;
        return *this;
    }
    flexinfer_place operator++(int) {
        return {at++};
    }
    flexinfer_place & operator--() {
        --at;
        return *this;
    }
    flexinfer_place operator--(int) {
        return {at--};
    }
    bool operator==(const flexinfer_place & other) const {
        flexinfer_trigger_step();
        return at == other.at;
    }
    bool operator!=(const flexinfer_place & other) const {
        return !(*this == other);
    }
};

struct flexinfer_traits : std::regex_traits<char> {};
using flexinfer_match = std::match_results<flexinfer_place>;

struct flexinfer_regex : std::basic_regex<char, flexinfer_traits> {
    flexinfer_regex() = default;
    explicit flexinfer_regex(const std::string & pattern);
};

inline bool flexinfer_regex_match(const std::string & text, flexinfer_match & match, const flexinfer_regex & regex) {
    return std::regex_match(
        flexinfer_place{text.data()}, flexinfer_place{text.data() + text.size()}, match, regex);
}

inline bool flexinfer_regex_search(const std::string & text, flexinfer_match & match, const flexinfer_regex & regex) {
    return std::regex_search(
        flexinfer_place{text.data()}, flexinfer_place{text.data() + text.size()}, match, regex);
}
