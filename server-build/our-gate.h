// What several requests take of one allowance, together: whoever would exceed it waits.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

class Gate {
    std::mutex lock;
    std::condition_variable left;
    int64_t used = 0;

  public:
    // `most` is the whole allowance; false where `gone` said so before there was room.
    bool enter(int64_t cost, int64_t most, const std::function<bool()> & gone) {
        std::unique_lock<std::mutex> held(lock);
        while (used + cost > most) {
            left.wait_for(held, std::chrono::milliseconds(200));
            if (gone()) {
                return false;
            }
        }
        used += cost;
        return true;
    }

    void leave(int64_t cost) {
        {
            std::lock_guard<std::mutex> held(lock);
            used -= cost;
        }
        left.notify_all();
    }
};
