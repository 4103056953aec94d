// What the server calls to draft: the engine is asked how many tokens, and told what came of them.
#include "our-drafts.h"
#include "our-hooks.h"

#include "speculative.h"

#include <algorithm>
#include <chrono>
#include <vector>

std::atomic<int64_t> flexinfer_probing{0};

namespace {

using clock_type = std::chrono::steady_clock;

// Of the last draft: its tokens by slot and all together, and the microseconds that it took.
std::vector<int64_t> lengths;
int64_t drafted = 0;
int64_t microseconds = 0;

}  // namespace

void flexinfer_draft(common_speculative * spec) {
    std::vector<llama_seq_id> drafting;
    for (llama_seq_id slot = 0; slot < flexinfer_hooks.slots; ++slot) {
        if (common_speculative_get_draft_params(spec, slot).drafting) {
            drafting.push_back(slot);
        }
    }
    const int64_t most = flexinfer_hooks.draft_length(drafting.size(), drafted, microseconds);
    for (const llama_seq_id slot : drafting) {
        auto & params = common_speculative_get_draft_params(spec, slot);
        // Tokens of a draft come without their probabilities.
        params.drafting = most > 0 && flexinfer_probing == 0;
        params.n_max = params.n_max > 0 ? std::min<int64_t>(params.n_max, most) : most;
    }
    const auto began = clock_type::now();
    common_speculative_draft(spec);
    const auto took = clock_type::now() - began;
    microseconds = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
    lengths.assign(flexinfer_hooks.slots, 0);
    drafted = 0;
    for (const llama_seq_id slot : drafting) {
        lengths[slot] = common_speculative_get_draft_params(spec, slot).result->size();
        drafted += lengths[slot];
    }
}

void flexinfer_accept(common_speculative * spec, llama_seq_id slot, uint16_t accepted) {
    if (static_cast<size_t>(slot) < lengths.size()) {
        flexinfer_hooks.verified(lengths[slot], accepted);
    }
    common_speculative_accept(spec, slot, accepted);
}
