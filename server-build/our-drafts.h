// Requests that ask for probabilities: while there are any, nothing is drafted.
#pragma once
#include <atomic>
#include <cstdint>

extern std::atomic<int64_t> flexinfer_probing;
