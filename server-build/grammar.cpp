// A grammar at work, bounded: llama.cpp keeps one stack for each way in which the text so far can be
// read, and one grammar reads a text in more ways than memory or time hold. All slots wait meanwhile.
// Its code is compiled in with a call at each of its loops (CMakeLists.txt), which may throw.
#include "our-grammar.h"

#include "llama-grammar.h"
#include "llama.h"

#include <cmath>
#include <cstddef>
#include <ctime>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// One token takes a tenth of a second of a large vocabulary where a grammar is read in one way.
constexpr double SECONDS = 2;
constexpr size_t BYTES = 32 << 20;
// What a stack takes beside its elements: in a list, in a tree and in another list.
constexpr size_t STACK_BYTES = 160;
// A copy, of which each draft takes one, compares each element of a stack with each of the rules.
constexpr size_t COPIES = 1 << 30;
// Of the 8 MiB that a thread has, which parentheses and rules within rules take as deep as they go.
constexpr ptrdiff_t DEPTH = 4 << 20;
// The clock is a call of the kernel's.
constexpr int STEPS_A_LOOK = 16;
constexpr int PLACES_A_STEP = 64;
// Reading a regular expression takes stack for each of its signs and a multiple for each parenthesis.
constexpr size_t PATTERN_BYTES = 4096;
constexpr ptrdiff_t PARENTHESES = 200;
constexpr size_t PATTERNS = 32;

struct given_up : std::runtime_error {
    using runtime_error::runtime_error;
};

[[noreturn]] void give_up(const std::string & why) {
    throw given_up(
        "llama.cpp cannot follow the grammar here, " + why + "; give one whose alternatives begin differently");
}

// Not counting what other threads compute, or how long this one was stopped.
double seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

// What this thread has left for the call that is under way.
struct {
    double until = 0;
    size_t bytes = 0;
    int steps = 0;
    const char * top = nullptr;

    void begin() {
        top = static_cast<const char *>(__builtin_frame_address(0));
        until = seconds() + SECONDS;
        bytes = BYTES;
        steps = 0;
    }
} thread_local left;

struct constrained {
    const llama_vocab * vocab;
    std::string text, root;
    bool lazy;
    std::vector<std::string> patterns;
    std::vector<llama_token> tokens;
    std::unique_ptr<llama_grammar, void (*)(llama_grammar *)> grammar{nullptr, llama_grammar_free_impl};

    void read() {
        if (patterns.size() > PATTERNS) {
            throw given_up("grammar_triggers has more than " + std::to_string(PATTERNS) + " texts; give fewer");
        }
        std::vector<const char *> given;
        for (const auto & pattern : patterns) {
            given.push_back(pattern.c_str());
        }
        left.begin();
        grammar.reset(llama_grammar_init_impl(
            vocab, text.c_str(), root.c_str(), lazy, given.data(), given.size(), tokens.data(), tokens.size()));
        if (!grammar) {
            throw given_up(
                "llama.cpp does not read the grammar: it repeats too much, or names tokens that the model does not "
                "have; give another one");
        }
    }

    bool may_end() const {
        const auto & stacks = grammar->stacks;
        return std::any_of(stacks.begin(), stacks.end(), [](const auto & stack) { return stack.empty(); });
    }
};

constrained & of(const llama_sampler * sampler) {
    return *static_cast<constrained *>(sampler->ctx);
}

const char * name(const llama_sampler *) {
    return "grammar";
}

// llama.cpp's own ends the process at an end of the text that the grammar does not allow.
void accept(llama_sampler * sampler, llama_token token) {
    const auto & one = of(sampler);
    left.begin();
    if (!one.grammar->awaiting_trigger && llama_vocab_is_eog(one.vocab, token) && !one.may_end()) {
        give_up("the text ends before it does");
    }
    try {
        llama_grammar_accept_impl(*one.grammar, token);
    } catch (const given_up &) {
        throw;
    } catch (const std::runtime_error &) {
        give_up("it allowed a token after which nothing can follow");
    }
}

void apply(llama_sampler * sampler, llama_token_data_array * candidates) {
    left.begin();
    llama_grammar_apply_impl(*of(sampler).grammar, candidates);
    const auto * begin = candidates->data, * end = begin + candidates->size;
    // One alone is only looked at.
    if (candidates->size > 1 && std::all_of(begin, end, [](const auto & one) { return one.logit == -INFINITY; })) {
        throw given_up("the grammar allows none of the model's tokens here; give another grammar");
    }
}

void reset(llama_sampler * sampler) {
    of(sampler).read();
}

void release(llama_sampler * sampler) {
    delete &of(sampler);
}

llama_sampler * clone(const llama_sampler * sampler);

template <typename T> size_t total(const std::vector<T> & lists) {
    size_t sum = 0;
    for (const auto & list : lists) {
        sum += list.size();
    }
    return sum;
}

llama_sampler_i interface() {
    llama_sampler_i calls{};
    calls.name = name;
    calls.accept = accept;
    calls.apply = apply;
    calls.reset = reset;
    calls.clone = clone;
    calls.free = release;
    return calls;
}

llama_sampler * sampler_of(std::unique_ptr<constrained> one) {
    static llama_sampler_i calls = interface();
    return llama_sampler_init(&calls, one.release());
}

llama_sampler * clone(const llama_sampler * sampler) {
    const auto & one = of(sampler);
    if (total(one.grammar->stacks) > COPIES / std::max<size_t>(total(one.grammar->rules), 1)) {
        give_up("a draft would have to be read in too many ways");
    }
    auto copy = std::make_unique<constrained>();
    copy->vocab = one.vocab;
    copy->text = one.text;
    copy->root = one.root;
    copy->lazy = one.lazy;
    copy->patterns = one.patterns;
    copy->tokens = one.tokens;
    copy->grammar.reset(llama_grammar_clone_impl(*one.grammar));
    return sampler_of(std::move(copy));
}

llama_sampler * made(constrained given) {
    auto one = std::make_unique<constrained>(std::move(given));
    one->read();
    return sampler_of(std::move(one));
}

}  // namespace

void flexinfer_grammar_step(size_t elements) {
    const size_t taken = elements ? STACK_BYTES + 3 * sizeof(void *) * elements : 0;
    if (taken > left.bytes) {
        give_up("the ways to read it take more than " + std::to_string(BYTES >> 20) + " MiB");
    }
    left.bytes -= taken;
    if (left.top - static_cast<const char *>(__builtin_frame_address(0)) > DEPTH) {
        give_up("it is nested too deep");
    }
    if (++left.steps % STEPS_A_LOOK == 0 && seconds() > left.until) {
        give_up("it takes longer than " + std::to_string(static_cast<int>(SECONDS)) + " s");
    }
}

void flexinfer_trigger_step() {
    static thread_local int places = 0;
    if (++places % PLACES_A_STEP != 0) {
        return;
    }
    const bool deep = left.top - static_cast<const char *>(__builtin_frame_address(0)) > DEPTH;
    if (deep || (++left.steps % STEPS_A_LOOK == 0 && seconds() > left.until)) {
        throw given_up(
            "a regular expression in grammar_triggers takes more than " +
            (deep ? std::to_string(DEPTH >> 20) + " MiB of stack" : std::to_string(static_cast<int>(SECONDS)) + " s") +
            " on this text; give a plainer one, or a word");
    }
}

flexinfer_regex::flexinfer_regex(const std::string & pattern) {
    const auto shown = "grammar_triggers has the regular expression " + pattern.substr(0, 40);
    if (pattern.size() > PATTERN_BYTES || std::count(pattern.begin(), pattern.end(), '(') > PARENTHESES) {
        throw given_up(
            shown + "..., which has more than " + std::to_string(PATTERN_BYTES) + " bytes or " +
            std::to_string(PARENTHESES) + " parentheses; give a plainer one");
    }
    try {
        assign(pattern);
    } catch (const std::regex_error & error) {
        throw given_up(shown + ", which does not read: " + error.what() + "; correct it");
    }
}

// The linker binds the server's calls to these.
extern "C" llama_sampler * llama_sampler_init_grammar(const llama_vocab * vocab, const char * text, const char * root) {
    return made({vocab, text, root, false, {}, {}});
}

extern "C" llama_sampler * llama_sampler_init_grammar_lazy_patterns(
        const llama_vocab * vocab, const char * text, const char * root, const char ** patterns, size_t pattern_count,
        const llama_token * tokens, size_t token_count) {
    return made({vocab, text, root, true, {patterns, patterns + pattern_count}, {tokens, tokens + token_count}});
}
