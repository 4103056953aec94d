// How slowly a request may come: whoever sends a byte now and then would hold a thread for hours.
#pragma once
#include <sys/socket.h>

#include <cerrno>
#include <chrono>

namespace flexinfer_pace {

constexpr double SECONDS = 10, BYTES_PER_SECOND = 64 << 10;

// What this thread reads: from where, since when, how much.
struct Reading {
    int sock = -1;
    std::chrono::steady_clock::time_point began;
    size_t got = 0;
};
inline thread_local Reading reading;

inline void end_reading() { reading.sock = -1; }

inline ssize_t receive(int sock, void * to, size_t size, int flags) {
    const auto now = std::chrono::steady_clock::now();
    if (reading.sock != sock) {
        reading = {sock, now, 0};
    }
    const std::chrono::duration<double> passed = now - reading.began;
    if (passed.count() > SECONDS + reading.got / BYTES_PER_SECOND) {
        errno = ETIMEDOUT;
        return -1;
    }
    const ssize_t got = ::recv(sock, to, size, flags);
    reading.got += got > 0 ? got : 0;
    return got;
}

// Flags of a send: an answer means that the request has been read.
inline int sending() {
    end_reading();
    return 0;
}

}  // namespace flexinfer_pace
