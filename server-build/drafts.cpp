// What the server calls to draft: the engine is asked how many tokens, and told what came of them.
// A smaller model that drafts computes what it has not seen when it drafts next, and keeps of its
// drafts what was right; llama.cpp has it compute all tokens after each pass, also while it rests.
#include "our-drafts.h"
#include "our-hooks.h"

#include "common.h"
#include "speculative.h"

#include <algorithm>
#include <chrono>
#include <vector>

std::atomic<int64_t> flexinfer_probing{0};

namespace {

using clock_type = std::chrono::steady_clock;

// Of the last draft: its tokens by slot and all together, and the microseconds that it took; 0 where
// those are no measure of it.
std::vector<int64_t> lengths;
int64_t drafted = 0;
int64_t microseconds = 0;

// The context of the model that drafts; null where llama.cpp's own order of things is kept.
llama_context * drafter = nullptr;
// By slot: where tokens begin that were drafted and not verified yet, or -1.
std::vector<llama_pos> unverified;

// Tokens of a slot that the drafter has not computed, into `batch`; whether it can draft then.
bool add_missing(common_batch & batch, llama_seq_id slot, const common_speculative_draft_params & params) {
    // Positions of images are none of its text.
    if (static_cast<llama_pos>(params.prompt->size()) != params.pos0) {
        return false;
    }
    auto * memory = llama_get_memory(drafter);
    const llama_pos kept = unverified[slot] < 0 ? params.pos0 : std::min(unverified[slot], params.pos0);
    llama_memory_seq_rm(memory, slot, kept, -1);
    for (llama_pos at = llama_memory_seq_pos_max(memory, slot) + 1; at < params.pos0; ++at) {
        batch.add((*params.prompt)[at], at, slot, false);
    }
    return true;
}

// Has the drafter compute `all`, in batches that it takes.
bool compute(common_speculative * spec, const common_batch & all) {
    const int32_t most = llama_n_batch(drafter);
    common_batch batch(drafter);
    for (int32_t at = 0; at < all.size(); ++at) {
        const auto & token = all.tokens[at];
        batch.add(token.id, token.pos[0], token.seq_id, false);
        if (batch.size() == most || at + 1 == all.size()) {
            if (!common_speculative_process(spec, batch)) {
                return false;
            }
            batch.clear();
        }
    }
    return true;
}

// Before slots draft: what they need is computed; how many tokens that were.
int64_t catch_up(common_speculative * spec, const std::vector<llama_seq_id> & drafting) {
    common_batch missing(drafter);
    unverified.resize(flexinfer_hooks.slots, -1);
    for (const llama_seq_id slot : drafting) {
        auto & params = common_speculative_get_draft_params(spec, slot);
        params.drafting = params.drafting && add_missing(missing, slot, params);
    }
    if (!compute(spec, missing)) {
        for (const llama_seq_id slot : drafting) {
            common_speculative_get_draft_params(spec, slot).drafting = false;
        }
    }
    return missing.size();
}

}  // namespace

common_speculative * flexinfer_speculative_init(common_params_speculative & params, uint32_t slots) {
    auto * context = params.draft.ctx_dft;
    const bool late = flexinfer_hooks.late_drafts && context &&
        llama_model_n_swa(llama_get_model(context)) == 0 &&
        common_context_can_seq_rm(context) == COMMON_CONTEXT_SEQ_RM_TYPE_PART;
    drafter = late ? context : nullptr;
    return common_speculative_init(params, slots);
}

bool flexinfer_speculative_process(common_speculative * spec, const common_batch & batch) {
    return drafter ? true : common_speculative_process(spec, batch);
}

// Of the drafter's tokens those that turn out right are kept.
extern "C" bool flexinfer_seq_rm(llama_memory_t memory, llama_seq_id slot, llama_pos from, llama_pos to) {
    return (drafter && memory == llama_get_memory(drafter)) || llama_memory_seq_rm(memory, slot, from, to);
}

void flexinfer_draft(common_speculative * spec) {
    std::vector<llama_seq_id> drafting;
    for (llama_seq_id slot = 0; slot < flexinfer_hooks.slots; ++slot) {
        if (common_speculative_get_draft_params(spec, slot).drafting) {
            drafting.push_back(slot);
        }
    }
    const int64_t most = flexinfer_hooks.draft_length(drafting.size(), drafted, microseconds);
    const bool drafts = most > 0 && flexinfer_probing == 0;
    for (const llama_seq_id slot : drafting) {
        auto & params = common_speculative_get_draft_params(spec, slot);
        // Tokens of a draft come without their probabilities.
        params.drafting = drafts;
        params.n_max = params.n_max > 0 ? std::min<int64_t>(params.n_max, most) : most;
    }
    const auto began = clock_type::now();
    const int64_t missing = drafter && drafts ? catch_up(spec, drafting) : 0;
    common_speculative_draft(spec);
    const auto took = clock_type::now() - began;
    lengths.assign(flexinfer_hooks.slots, 0);
    drafted = 0;
    for (const llama_seq_id slot : drafting) {
        const auto & params = common_speculative_get_draft_params(spec, slot);
        lengths[slot] = params.result->size();
        drafted += lengths[slot];
        if (drafter && lengths[slot]) {
            unverified[slot] = params.pos0 + 1;
        }
    }
    // What was written while it rested is no measure of a draft.
    microseconds = missing > static_cast<int64_t>(drafting.size())
        ? 0 : std::chrono::duration_cast<std::chrono::microseconds>(took).count();
}

void flexinfer_accept(common_speculative * spec, llama_seq_id slot, uint16_t accepted) {
    if (static_cast<size_t>(slot) < lengths.size()) {
        flexinfer_hooks.verified(lengths[slot], accepted);
    }
    if (static_cast<size_t>(slot) < unverified.size()) {
        unverified[slot] = -1;
    }
    common_speculative_accept(spec, slot, accepted);
}
