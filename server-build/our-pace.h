// How slowly a request may come: whoever sends a byte now and then would hold a thread for hours. And
// which lane a connection takes: who only looks does not queue behind those who wait for answers.
#pragma once
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <string_view>

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

enum class Lane { answers, looks, health };

// Of the connection that this thread has just accepted, and of the one that it serves.
inline thread_local Lane arrived = Lane::answers, served = Lane::answers;

// By its first request, which is there: see flexinfer_listening. Where it is not, as from a slow sender,
// or not to be read, as with TLS, the connection may take long.
inline Lane lane_of(int sock) {
    char bytes[4096];
    const ssize_t got = ::recv(sock, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    const std::string_view request(bytes, got > 0 ? got : 0);
    const bool looks = request.rfind("GET ", 0) == 0 || request.rfind("HEAD ", 0) == 0;
    if (!looks || request.find("\r\n\r\n") == request.npos) {
        return Lane::answers;
    }
    return request.substr(0, request.find('\r')).find("/health") != request.npos ? Lane::health : Lane::looks;
}

inline int accept(int listening, sockaddr * from, socklen_t * size, int flags) {
    const int sock = ::accept4(listening, from, size, flags);
    arrived = sock < 0 ? Lane::answers : lane_of(sock);
    return sock;
}

}  // namespace flexinfer_pace
