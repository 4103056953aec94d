// The two ends of a connection of llama.cpp's RPC protocol.
//
// llama.cpp aborts when a worker does not answer as it should, in a thread of its own where nobody
// can catch it. So a lost connection goes on answering here, with zeros, and tells whoever asks that
// it is lost: `flexinfer_rpc_lost`, after every batch. The client follows the protocol just closely
// enough to know which answer is awaited.
#include "transport.h"

#include "ggml-rpc.h"
#include "our-transport.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

using flexinfer::Clock;
using flexinfer::Door;
using flexinfer::PING;
using flexinfer::Socket;

struct flexinfer_rpc_limits flexinfer_rpc_limits = { 5000, 10000, 15000 };
bool (*flexinfer_rpc_admit)(uint64_t) = nullptr;
void (*flexinfer_rpc_client)(const char *, int) = nullptr;

namespace {

// What a socket of llama.cpp's is: a client's end, a worker's end, or a worker's door.
struct End {
    virtual bool send(const void *, size_t) { return false; }
    virtual bool receive(void *, size_t) { return false; }
    virtual std::unique_ptr<End> next() { return nullptr; }
    virtual ~End() = default;
};

// `enum rpc_cmd` of ggml-rpc.cpp: what is answered, and what takes long.
enum Command : uint8_t {
    ALLOC_BUFFER = 0, GET_ALIGNMENT = 1, GET_MAX_SIZE = 2, BUFFER_GET_BASE = 3, SET_TENSOR = 6,
    SET_TENSOR_HASH = 7, GET_TENSOR = 8, COPY_TENSOR = 9, GRAPH_COMPUTE = 10, GET_DEVICE_MEMORY = 11,
    GET_ALLOC_SIZE = 13, HELLO = 14, DEVICE_COUNT = 15, GRAPH_RECOMPUTE = 16,
};

// Not null, which ggml does not take; nothing is ever at it.
constexpr uint64_t NOWHERE = 0x1000;
constexpr uint64_t ALIGNMENT = 64;

// Bytes of an answer; `asked` are those of a tensor.
size_t answer_bytes(uint8_t command, uint64_t asked) {
    switch (command) {
        case ALLOC_BUFFER: case GET_DEVICE_MEMORY: return 16;
        case GET_ALIGNMENT: case GET_MAX_SIZE: case BUFFER_GET_BASE: case GET_ALLOC_SIZE: return 8;
        case SET_TENSOR_HASH: case COPY_TENSOR: return 1;
        case HELLO: return 4 + RPC_CONN_CAPS_SIZE;
        case DEVICE_COUNT: return 4;
        default: return asked;
    }
}

// In place of the answer of a worker that is lost: no memory, no devices, zeros.
void pretend(uint8_t command, void * data, size_t size) {
    const uint8_t version[] = { RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION, RPC_PROTO_PATCH_VERSION };
    const std::map<uint8_t, uint64_t> numbers = {
        { GET_MAX_SIZE, UINT64_MAX }, { GET_ALIGNMENT, ALIGNMENT }, { BUFFER_GET_BASE, NOWHERE } };
    memset(data, 0, size);
    if (command == HELLO) {
        memcpy(data, version, sizeof(version));
    } else if (numbers.count(command)) {
        memcpy(data, &numbers.at(command), sizeof(uint64_t));
    }
}

// One of llama.cpp's own that computes for long cannot be told from one that hangs.
const char SILENT[] = ", and only `flexinfer worker` gives signs of life while it computes; start that "
                      "there, or give a smaller --ubatch";

struct Client;

// Which endpoints are lost, and why; whose connections are open.
struct Book {
    std::mutex mutex;
    std::map<std::string, std::string> lost;
    std::map<std::string, Client *> open;
};

Book & book() {
    static Book * one = new Book;  // never destroyed: threads outlive the end of main
    return *one;
}

std::string seconds(int64_t milliseconds) {
    return std::to_string(milliseconds / 1000) + " s";
}

struct Client : End {
    std::string endpoint;
    Socket socket, life;
    bool lives = false;     // the worker gives signs of life
    bool greeted = false;
    bool working = false;   // it was given work since its last answer
    bool lost = false;
    uint8_t command = 0;
    int part = 0;           // of a request: 0 command, 1 size, 2 content
    int answer_part = 0;    // of an answer: 0 size, 1 content
    uint64_t asked = 0;     // bytes of a tensor
    Clock::time_point heard = Clock::now(), pinged = heard;

    Client(const std::string & host, int port) : endpoint(host + ":" + std::to_string(port)) {
        {
            std::lock_guard<std::mutex> lock(book().mutex);
            book().lost.erase(endpoint);
            book().open[endpoint] = this;
        }
        socket = Socket::connect(host, port, flexinfer_rpc_limits.greeting);
        if (socket.fd < 0) {
            lose("nothing answers there");
            return;
        }
        life = Socket::connect(host, port, flexinfer_rpc_limits.greeting);
        life.send(&PING, 1, [] { return false; });
    }

    ~Client() override {
        std::lock_guard<std::mutex> lock(book().mutex);
        if (book().open[endpoint] == this) {
            book().open.erase(endpoint);
        }
    }

    bool lose(const std::string & why) {
        std::lock_guard<std::mutex> lock(book().mutex);
        lost = true;
        book().lost.emplace(endpoint, why);
        return false;
    }

    // Whether to wait any longer for the worker, which began at `since`.
    bool go_on(Clock::time_point since) {
        const auto now = Clock::now();
        uint8_t pongs[64];
        const ssize_t n = life.fd < 0 ? 0 : life.take(pongs, sizeof(pongs));
        if (n > 0) {
            lives = true;
            heard = now;
        } else if (n < 0 && lives) {
            return lose("its process ended or the link broke");
        }
        if (life.fd >= 0 && now - pinged > std::chrono::seconds(1)) {
            pinged = now;
            life.send(&PING, 1, [] { return false; });
        }
        // Before this wait nobody asked. Bytes that go or come are a sign of life.
        const auto quiet = std::max(since, socket.moved);
        const auto from = greeted && lives ? std::max(heard, quiet) : quiet;
        const bool silent = greeted && !lives && working;
        const int64_t limit = !greeted ? flexinfer_rpc_limits.greeting
                            : silent ? flexinfer_rpc_limits.answer
                            : flexinfer_rpc_limits.life;
        if (now - from < std::chrono::milliseconds(limit)) {
            return true;
        }
        if (!greeted && lives) {
            return lose("it serves another client");
        }
        return lose("it has not answered for " + seconds(limit) + (silent ? SILENT : ""));
    }

    bool send(const void * data, size_t size) override {
        follow(data, size);
        const auto since = Clock::now();
        if (!lost && !socket.send(data, size, [&] { return go_on(since); }) && !lost) {
            lose("its process ended or the link broke");
        }
        return true;
    }

    // Keep up with the request that is sent.
    void follow(const void * data, size_t size) {
        if (part == 0) {
            command = *(const uint8_t *) data;
            working |= command == GRAPH_COMPUTE || command == GRAPH_RECOMPUTE || command == SET_TENSOR;
        } else if (part == 2 && command == GET_TENSOR && size >= sizeof(asked)) {
            memcpy(&asked, (const char *) data + size - sizeof(asked), sizeof(asked));
        }
        part = (part + 1) % 3;
        answer_part = 0;
    }

    bool receive(void * data, size_t size) override {
        const uint64_t wanted = answer_bytes(command, asked);
        const auto since = Clock::now();
        if (!lost && !socket.receive(data, size, [&] { return go_on(since); }) && !lost) {
            lose("its process ended or the link broke");
        }
        if (!lost && answer_part == 0 && memcmp(data, &wanted, sizeof(wanted)) != 0) {
            lose("it does not speak this version of llama.cpp's protocol");
        }
        if (lost && answer_part == 0) {
            memcpy(data, &wanted, sizeof(wanted));
        } else if (lost) {
            pretend(command, data, size);
        } else if (answer_part == 1) {
            working = false;
            greeted = true;
        }
        answer_part = 1;
        return true;
    }
};

// The client that a worker serves now.
std::mutex serving;
Socket * served = nullptr;

std::string address_of(const Socket & socket) {
    struct sockaddr_storage peer = {};
    socklen_t size = sizeof(peer);
    char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "";
    if (getpeername(socket.fd, (struct sockaddr *) &peer, &size) == 0) {
        getnameinfo((struct sockaddr *) &peer, size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    }
    return std::string(host) + ":" + port;
}

struct Served : End {
    Socket socket;
    std::string address;
    int part = 0;           // of a request: 0 command, 1 size, 2 content
    uint64_t awaited = 0;   // bytes of the content

    explicit Served(Socket one) : socket(std::move(one)), address(address_of(socket)) {
        std::lock_guard<std::mutex> lock(serving);
        served = &socket;
        tell(1);
    }

    ~Served() override {
        std::lock_guard<std::mutex> lock(serving);
        served = nullptr;
        tell(0);
    }

    void tell(int came) {
        if (flexinfer_rpc_client) {
            flexinfer_rpc_client(address.c_str(), came);
        }
    }

    bool send(const void * data, size_t size) override {
        return socket.send(data, size, [] { return true; });
    }

    bool receive(void * data, size_t size) override {
        if (size > 0 && !socket.receive(data, size, [] { return true; })) {
            return false;
        }
        if (part == 1) {
            memcpy(&awaited, data, sizeof(awaited));
            if (flexinfer_rpc_admit && !flexinfer_rpc_admit(awaited)) {
                return false;
            }
        }
        part = (part + 1) % 3;
        return true;
    }
};

struct Listening : End {
    Door door;
    explicit Listening(Socket listener) : door(std::move(listener)) {}
    std::unique_ptr<End> next() override { return std::make_unique<Served>(door.next()); }
};

}  // namespace

const char * flexinfer_rpc_lost(const char * endpoint) {
    thread_local std::string reason;
    std::lock_guard<std::mutex> lock(book().mutex);
    const auto found = book().lost.find(endpoint);
    if (found == book().lost.end()) {
        return nullptr;
    }
    reason = found->second;
    return reason.c_str();
}

void flexinfer_rpc_drop(const char * endpoint, const char * reason) {
    std::lock_guard<std::mutex> lock(book().mutex);
    const auto found = book().open.find(endpoint);
    if (found != book().open.end()) {
        book().lost.emplace(endpoint, reason);
        found->second->socket.shut();
    }
}

void flexinfer_rpc_refuse(void) {
    std::lock_guard<std::mutex> lock(serving);
    if (served != nullptr) {
        served->shut();
    }
}

const char * flexinfer_rpc_source(void) { return FLEXINFER_SOURCE; }

struct socket_t::impl {
    std::unique_ptr<End> end;
};

socket_t::socket_t(std::unique_ptr<impl> p) : pimpl(std::move(p)) {}
socket_t::~socket_t() = default;
bool socket_t::send_data(const void * data, size_t size) { return pimpl->end->send(data, size); }
bool socket_t::recv_data(void * data, size_t size) { return pimpl->end->receive(data, size); }
bool socket_t::flush() { return true; }
void socket_t::get_caps(uint8_t * caps) { memset(caps, 0, RPC_CONN_CAPS_SIZE); }
void socket_t::update_caps(const uint8_t *) {}

socket_ptr socket_t::accept() {
    return socket_ptr(new socket_t(std::make_unique<impl>(impl { pimpl->end->next() })));
}

socket_ptr socket_t::create_server(const char * host, int port) {
    Socket listener = Socket::listen(host, port);
    if (listener.fd < 0) {
        return nullptr;
    }
    auto door = std::make_unique<Listening>(std::move(listener));
    return socket_ptr(new socket_t(std::make_unique<impl>(impl { std::move(door) })));
}

socket_ptr socket_t::connect(const char * host, int port) {
    auto client = std::make_unique<Client>(host, port);
    return socket_ptr(new socket_t(std::make_unique<impl>(impl { std::move(client) })));
}

bool rpc_transport_init() { return true; }
void rpc_transport_shutdown() {}
