// Beside a projector bodies hold texts and images, and only what is done to them tells which: texts
// are counted where they are tokenized, images before they are decoded. What holds such a share
// waits for nobody, so shares always come free. What cannot be counted beforehand is not decoded.
#include "our-gate.h"
#include "our-hooks.h"

#include "mtmd-helper.h"
#include "mtmd.h"

#include <malloc.h>
#include <pthread.h>

#include <climits>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#include <stb/stb_image.h>

namespace {

// A symbol for each character, and pixels as they are unpacked, converted and copied.
constexpr int64_t TEXT_COST = 100;
constexpr int64_t PIXEL_COST = 16;
constexpr int64_t LARGE = 1 << 20;

Gate texts, pixels;

class Share {
    Gate & gate;
    int64_t cost;

  public:
    Share(Gate & gate, int64_t cost, int64_t most, const std::string & what) : gate(gate), cost(cost) {
        if (cost > most) {
            throw std::invalid_argument(
                what + " takes " + std::to_string(cost) + " bytes of memory, of which " + std::to_string(most) +
                " are kept for that; send less, or give the server a larger --ctx or --memory");
        }
        gate.enter(cost, most, [] { return false; });
    }
    ~Share() {
        gate.leave(cost);
        if (cost > LARGE) {
            malloc_trim(0);
        }
    }
    Share(const Share &) = delete;
    Share & operator=(const Share &) = delete;
};

// As libmtmd finds sound, which it looks for first: how long it is shows only when it is decoded.
bool sounds(const unsigned char * data, size_t size) {
    const auto says = [data](size_t at, const char * text) { return memcmp(data + at, text, strlen(text)) == 0; };
    return size >= 12 && ((says(0, "RIFF") && says(8, "WAVE")) || says(0, "ID3") || says(0, "fLaC") ||
                          (data[0] == 0xFF && (data[1] & 0xE0) == 0xE0));
}

bool counted() {
    return flexinfer_hooks.text_bytes > 0;
}

// Why the text of this thread's request may not be read.
thread_local std::string refusal;

struct deep_call {
    std::function<void()> call;
    std::exception_ptr thrown;
};

// `call` in a thread with a stack of so many bytes.
void on_stack(int64_t bytes, std::function<void()> call) {
    deep_call deep{std::move(call), nullptr};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, bytes);
    pthread_t thread;
    const int failed = pthread_create(&thread, &attributes, [](void * given) -> void * {
        auto & deep = *static_cast<deep_call *>(given);
        try {
            deep.call();
        } catch (...) {
            deep.thrown = std::current_exception();
        }
        return nullptr;
    }, &deep);
    pthread_attr_destroy(&attributes);
    if (failed) {
        throw std::runtime_error("there is no memory for a thread that reads this text; send a shorter one");
    }
    pthread_join(thread, nullptr);
    if (deep.thrown) {
        std::rethrow_exception(deep.thrown);
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void flexinfer_refuse(const char * sentence) {
    refusal = sentence;
}

extern "C" int32_t llama_tokenize(const struct llama_vocab * vocab, const char * text, int32_t text_len,
                                  llama_token * tokens, int32_t n_tokens_max, bool add_special, bool parse_special) {
    const auto call = [&] {
        const int32_t count =
            flexinfer_hooks.tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special);
        if (count == INT32_MIN && !refusal.empty()) {
            throw std::invalid_argument(std::exchange(refusal, ""));
        }
        return count;
    };
    if (!counted()) {
        return call();
    }
    const Share share(texts, TEXT_COST * text_len, flexinfer_hooks.text_bytes, "reading this text");
    return call();
}

int32_t mtmd_tokenize(const mtmd_context * context, mtmd_input_chunks * chunks, const mtmd_input_text * text,
                      const mtmd_bitmap * const * bitmaps, size_t count) {
    const auto call = reinterpret_cast<decltype(&mtmd_tokenize)>(flexinfer_hooks.tokenize_media);
    const Share share(texts, TEXT_COST * (int64_t) text->text_len, flexinfer_hooks.text_bytes, "reading this text");
    const int64_t stack = flexinfer_hooks.stack_for(text->text, text->text_len);
    if (stack < 0) {
        throw std::invalid_argument(std::exchange(refusal, ""));
    }
    if (stack == 0) {
        return call(context, chunks, text, bitmaps, count);
    }
    int32_t status = 0;
    on_stack(stack, [&] { status = call(context, chunks, text, bitmaps, count); });
    return status;
}

mtmd_helper_bitmap_wrapper mtmd_helper_bitmap_init_from_buf(const mtmd_context * context, const unsigned char * data,
                                                            size_t size, bool placeholder, mtmd_helper_init_opt options) {
    const auto call = reinterpret_cast<decltype(&mtmd_helper_bitmap_init_from_buf)>(flexinfer_hooks.decode_media);
    int width = 0, height = 0, channels = 0;
    // Whatever else there is, libmtmd hands to another program.
    if (sounds(data, size) || !stbi_info_from_memory(data, (int) size, &width, &height, &channels)) {
        throw std::invalid_argument(
            "only images are taken beside the text, and no WebP, sound or video, whose size in memory is not known "
            "beforehand; send a PNG or JPEG");
    }
    const std::string what = "an image of " + std::to_string(width) + " x " + std::to_string(height) + " pixels";
    const Share share(pixels, PIXEL_COST * width * height, flexinfer_hooks.pixel_bytes, what);
    return call(context, data, size, placeholder, options);
}
