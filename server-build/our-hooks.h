/* What the server asks of flexinfer: filled in from Python (`flexinfer.serve.library`) before the
 * server starts. Every member is eight bytes wide. */
#pragma once
#include <stdint.h>

#include "llama.h"

struct flexinfer_hooks {
    struct llama_model * (*load)(const char * path, struct llama_model_params params);
    struct llama_context * (*create)(struct llama_model * model, struct llama_context_params params);
    void (*free_model)(struct llama_model * model);
    /* llama.cpp's own function, never Python's: passes do not enter the interpreter here. */
    int32_t (*process)(struct llama_context *, enum llama_process_type, struct llama_batch_ext *);
    /* The binding's own: llama_tokenize, mtmd_tokenize, mtmd_helper_bitmap_init_from_buf. */
    int32_t (*tokenize)(const struct llama_vocab *, const char *, int32_t, llama_token *, int32_t, bool, bool);
    /* The stack that a text of this length needs to be tokenized, 0 for what threads have; below it
     * the text is refused, in the words of flexinfer_refuse. */
    int64_t (*stack_for)(const char * text, int64_t length);
    void * tokenize_media;
    void * decode_media;
    /* A pass failed, in the thread that ran it; may call flexinfer_fail. */
    void (*failed)(int32_t status);
    /* How many tokens each of so many slots may draft for its next pass; the last draft had so many
     * tokens, of all slots, and took so many microseconds. */
    int64_t (*draft_length)(int64_t slots, int64_t drafted, int64_t microseconds);
    /* A slot's draft was computed: so many of its tokens were right. */
    void (*verified)(int64_t drafted, int64_t accepted);
    /* The model is loaded; anything but 0: do not serve. */
    int64_t (*ready)(int64_t port);
    /* Answers a route of ours by calling flexinfer_reply; `body` of a GET is what the server counts. */
    void (*answer)(const char * route, const char * body, void * reply);
    /* Our routes, as "GET /engine/plan\nPOST /engine/memory". */
    const char * routes;
    int64_t body_bytes;
    /* What large bodies may take together while they are received. */
    int64_t receive_bytes;
    /* What requests may take together while they are read; beside a projector (else 0) texts while
     * they are tokenized and images while they are decoded. */
    int64_t request_bytes;
    int64_t text_bytes;
    int64_t pixel_bytes;
    int64_t threads;
    int64_t probability_bytes;
    int64_t context;
    int64_t slots;
    /* A smaller model drafts alone: what it has not seen it computes when it drafts next. */
    int64_t late_drafts;
};

#ifdef __cplusplus
extern "C" {
#endif
extern struct flexinfer_hooks flexinfer_hooks;
#ifdef __cplusplus
}
#endif
