// The transport of llama.cpp's RPC protocol, in place of its own: every wait has a limit, and a
// connection that is lost ends no process.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

extern "C" {
// Milliseconds: to connect and be greeted; without a sign of life; and without an answer where a
// worker gives no signs of life.
extern struct flexinfer_rpc_limits {
    int64_t greeting;
    int64_t life;
    int64_t answer;
} flexinfer_rpc_limits;

// Called by a worker: may a message of so many bytes come in; a client came or went.
extern bool (*flexinfer_rpc_admit)(uint64_t bytes);
extern void (*flexinfer_rpc_client)(const char * address, int came);

// Why the connection to an endpoint is lost; null while it is not. Valid until this thread asks again.
const char * flexinfer_rpc_lost(const char * endpoint);
// Give up the connection to an endpoint, for that reason.
void flexinfer_rpc_drop(const char * endpoint, const char * reason);
// In a worker: end the connection of the client that is served.
void flexinfer_rpc_refuse(void);
// The requirement that this was compiled from.
const char * flexinfer_rpc_source(void);
}

namespace flexinfer {

// A connection whose first byte is this one, which is no command of the protocol, asks whether the
// process lives: each byte comes back, whatever the worker computes meanwhile.
constexpr uint8_t PING = 0xF1;

using Clock = std::chrono::steady_clock;

// One socket, closed with its owner.
class Socket {
  public:
    explicit Socket(int fd = -1) : fd(fd) {}
    Socket(Socket && other) : fd(other.fd), moved(other.moved) { other.fd = -1; }
    Socket & operator=(Socket && other) {
        std::swap(fd, other.fd);
        std::swap(moved, other.moved);
        return *this;
    }
    ~Socket();

    static Socket connect(const std::string & host, int port, int64_t milliseconds);
    static Socket listen(const std::string & host, int port);

    int fd;
    // When bytes last went or came.
    Clock::time_point moved = Clock::now();

    // Have the system find out soon that the other machine is gone, and send small messages at once.
    void prepare();
    // Transfer all of it; `go_on` is asked every so often whether to wait any longer.
    bool send(const void * data, size_t size, const std::function<bool()> & go_on);
    bool receive(void * data, size_t size, const std::function<bool()> & go_on);
    // What can be had without waiting: bytes, 0 for nothing, below 0 for an end.
    ssize_t take(void * data, size_t size, int flags = 0);
    void shut();
};

// Lets clients in, one after the other, while a thread of its own answers pings.
class Door {
  public:
    explicit Door(Socket listener);
    // The next client; waits for one.
    Socket next();

  private:
    struct Room;
    std::shared_ptr<Room> room;
};

}  // namespace flexinfer
