// Included before llama.cpp's server-http.cpp: bounds its threads, and a body that is too large is
// answered with a sentence.
#pragma once
#include "our-hooks.h"

#include <cpp-httplib/httplib.h>

httplib::Server::Handler flexinfer_errors(httplib::Server::Handler handler);

namespace httplib {
struct BoundedPool {
    ThreadPool pool;
    BoundedPool(size_t threads, size_t) : pool(threads, flexinfer_hooks.threads) {}
    bool enqueue(std::function<void()> work) { return pool.enqueue(std::move(work)); }
    void shutdown() { pool.shutdown(); }
};
}  // namespace httplib

#define ThreadPool BoundedPool
#define set_error_handler(...) set_error_handler(flexinfer_errors(__VA_ARGS__))
