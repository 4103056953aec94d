// Included before llama.cpp's server-http.cpp: bounds its threads, some of which are for those who
// only look, and what large bodies take while they are received, connections that say nothing take
// none, and a body that is too large is answered with a sentence.
#pragma once
#include "our-hooks.h"
#include "our-pace.h"

#include <cpp-httplib/httplib.h>

httplib::Server::Handler flexinfer_errors(httplib::Server::Handler handler);
httplib::SocketOptions flexinfer_listening(httplib::SocketOptions options);
// Seconds without a byte of a request that has begun.
constexpr time_t FLEXINFER_READ_SECONDS = 10;
// Before the body of a request is received, and once its thread holds none any more.
httplib::Server::HandlerResponse flexinfer_receive(const httplib::Request & req, httplib::Response & res);
void flexinfer_received();

namespace httplib {
// Each lane has threads of its own. That of answers may be full of requests that wait for a slot, that
// of looks of such that wait for a pass.
struct BoundedPool {
    static constexpr size_t LOOKS = 4, HEALTH = 2;
    ThreadPool answers, looks{1, LOOKS}, health{1, HEALTH};
    BoundedPool(size_t threads, size_t) : answers(threads, flexinfer_hooks.threads - LOOKS - HEALTH) {}
    ThreadPool & of(flexinfer_pace::Lane lane) {
        return lane == flexinfer_pace::Lane::answers ? answers : lane == flexinfer_pace::Lane::looks ? looks : health;
    }
    bool enqueue(std::function<void()> work) {
        const auto lane = flexinfer_pace::arrived;
        return of(lane).enqueue([work = std::move(work), lane] {
            flexinfer_pace::served = lane;
            flexinfer_pace::end_reading();
            work();
            flexinfer_received();
        });
    }
    void shutdown() {
        for (ThreadPool * pool : {&answers, &looks, &health}) {
            pool->shutdown();
        }
    }
};
}  // namespace httplib

#define ThreadPool BoundedPool
#define set_error_handler(...) \
    set_pre_request_handler(flexinfer_receive).set_error_handler(flexinfer_errors(__VA_ARGS__))
#define set_socket_options(...) set_socket_options(flexinfer_listening(__VA_ARGS__))
#define set_read_timeout(...) set_read_timeout(FLEXINFER_READ_SECONDS)
