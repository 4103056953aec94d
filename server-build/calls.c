/* The calls by which the server reaches a model, handed to whoever filled in `flexinfer_hooks`. They
 * stand in the same library as the server and nothing but our entries leaves it, so the linker binds
 * the server's calls here: no symbol is interposed at run time. */
#include "our-hooks.h"

__attribute__((visibility("default"))) struct flexinfer_hooks flexinfer_hooks;

struct llama_model * llama_model_load_from_file(const char * path, struct llama_model_params params) {
    return flexinfer_hooks.load(path, params);
}

struct llama_context * llama_init_from_model(struct llama_model * model, struct llama_context_params params) {
    return flexinfer_hooks.create(model, params);
}

void llama_model_free(struct llama_model * model) {
    flexinfer_hooks.free_model(model);
}

/* The server takes "aborted" (2) for a full KV cache and tries again with half the batch: here a
 * pass that did not succeed has failed. */
int32_t llama_process(struct llama_context * context, enum llama_process_type type, struct llama_batch_ext * batch) {
    int32_t status = flexinfer_hooks.process(context, type, batch);
    if (status == 2 || status < -1) {
        flexinfer_hooks.failed(status);
        return -3;
    }
    return status;
}
