// What several requests take of one allowance, together: whoever would exceed it waits, and whoever
// comes later waits behind it, or a large one would wait for as long as small ones come.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>

class Gate {
    std::mutex lock;
    std::condition_variable left;
    std::list<int64_t> waiting;
    int64_t used = 0;

  public:
    // `most` is the whole allowance; false where `gone` said so before there was room.
    bool enter(int64_t cost, int64_t most, const std::function<bool()> & gone) {
        std::unique_lock<std::mutex> held(lock);
        const auto mine = waiting.insert(waiting.end(), cost);
        bool enters = true;
        while (enters && (mine != waiting.begin() || used + cost > most)) {
            left.wait_for(held, std::chrono::milliseconds(200));
            enters = !gone();
        }
        waiting.erase(mine);
        used += enters ? cost : 0;
        held.unlock();
        left.notify_all();
        return enters;
    }

    void leave(int64_t cost) {
        {
            std::lock_guard<std::mutex> held(lock);
            used -= cost;
        }
        left.notify_all();
    }
};
