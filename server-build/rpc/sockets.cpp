// Sockets with limits of time, and a worker's door.
#include "our-transport.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

namespace flexinfer {

namespace {

// How often a wait asks whether to go on.
constexpr int STEP_MS = 500;
// A dead link is found after IDLE + COUNT x INTERVAL seconds, and as long after something was sent.
constexpr int IDLE_S = 5, INTERVAL_S = 2, COUNT = 3, UNSENT_MS = 11000;
constexpr int BACKLOG = 16;
// A connection says within this time what it wants.
constexpr auto SILENT = std::chrono::seconds(5);

struct addrinfo * addresses(const std::string & host, int port, int flags) {
    struct addrinfo hints = {}, * found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = AF_UNSPEC;
    hints.ai_flags = flags;
    return getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) ? nullptr : found;
}

void set(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof(value));
}

bool wait(int fd, short events, const std::function<bool()> & go_on) {
    struct pollfd polled = { fd, events, 0 };
    while (true) {
        const int ready = poll(&polled, 1, STEP_MS);
        if (ready > 0) {
            return true;
        }
        if ((ready < 0 && errno != EINTR) || !go_on()) {
            return false;
        }
    }
}

}  // namespace

Socket::~Socket() {
    if (fd >= 0) {
        close(fd);
    }
}

void Socket::shut() {
    if (fd >= 0) {
        shutdown(fd, SHUT_RDWR);
    }
}

void Socket::prepare() {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, INTERVAL_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, COUNT);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNSENT_MS);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

Socket Socket::connect(const std::string & host, int port, int64_t milliseconds) {
    struct addrinfo * found = addresses(host, port, 0);
    Socket made;
    const auto until = Clock::now() + std::chrono::milliseconds(milliseconds);
    for (auto * one = found; one != nullptr && made.fd < 0; one = one->ai_next) {
        Socket tried(socket(one->ai_family, one->ai_socktype, one->ai_protocol));
        if (tried.fd < 0) {
            continue;
        }
        tried.prepare();
        if (::connect(tried.fd, one->ai_addr, one->ai_addrlen) < 0) {
            if (errno != EINPROGRESS || !wait(tried.fd, POLLOUT, [&] { return Clock::now() < until; })) {
                continue;
            }
            int failure = 0;
            socklen_t size = sizeof(failure);
            getsockopt(tried.fd, SOL_SOCKET, SO_ERROR, &failure, &size);
            if (failure != 0) {
                continue;
            }
        }
        made = std::move(tried);
    }
    if (found != nullptr) {
        freeaddrinfo(found);
    }
    return made;
}

Socket Socket::listen(const std::string & host, int port) {
    struct addrinfo * found = addresses(host, port, AI_PASSIVE);
    Socket made;
    if (found != nullptr) {
        Socket tried(socket(found->ai_family, found->ai_socktype, found->ai_protocol));
        set(tried.fd, SOL_SOCKET, SO_REUSEADDR, 1);
        fcntl(tried.fd, F_SETFD, FD_CLOEXEC);
        if (bind(tried.fd, found->ai_addr, found->ai_addrlen) == 0 && ::listen(tried.fd, BACKLOG) == 0) {
            made = std::move(tried);
        }
        freeaddrinfo(found);
    }
    return made;
}

bool Socket::send(const void * data, size_t size, const std::function<bool()> & go_on) {
    for (size_t sent = 0; sent < size;) {
        const ssize_t n = ::send(fd, (const char *) data + sent, size - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t) n;
            moved = Clock::now();
        } else if (errno == EAGAIN ? !wait(fd, POLLOUT, go_on) : errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool Socket::receive(void * data, size_t size, const std::function<bool()> & go_on) {
    for (size_t received = 0; received < size;) {
        const ssize_t n = take((char *) data + received, size - received);
        if (n < 0 || (n == 0 && !wait(fd, POLLIN, go_on))) {
            return false;
        }
        received += (size_t) n;
        if (n > 0) {
            moved = Clock::now();
        }
    }
    return true;
}

ssize_t Socket::take(void * data, size_t size, int flags) {
    const ssize_t n = recv(fd, data, size, flags | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    return n > 0 ? n : -1;
}

// What the thread at the door and the one that serves share.
struct Door::Room {
    struct Guest {
        Socket socket;
        Clock::time_point came;
        bool pings;
    };

    explicit Room(Socket listener) : listener(std::move(listener)) {}

    // Whether the guest stays at the door.
    bool keep(Guest & guest) {
        uint8_t byte;
        const ssize_t n = guest.socket.take(&byte, 1, guest.pings ? 0 : MSG_PEEK);
        if (n == 0) {
            return guest.pings || Clock::now() - guest.came < SILENT;
        }
        if (n < 0) {
            return false;
        }
        if (!guest.pings && byte != PING) {
            std::lock_guard<std::mutex> lock(mutex);
            waiting.push(std::move(guest.socket));
            came.notify_one();
            return false;
        }
        if (!guest.pings) {
            guest.pings = true;
            return true;
        }
        return ::send(guest.socket.fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
    }

    void work() {
        while (true) {
            std::vector<struct pollfd> polled = { { listener.fd, POLLIN, 0 } };
            for (auto & guest : guests) {
                polled.push_back({ guest.socket.fd, POLLIN, 0 });
            }
            if (poll(polled.data(), polled.size(), STEP_MS) < 0 && errno != EINTR) {
                return;
            }
            guests.remove_if([this](Guest & guest) { return !keep(guest); });
            if (polled[0].revents & POLLIN) {
                Socket socket(accept(listener.fd, nullptr, nullptr));
                if (socket.fd >= 0) {
                    socket.prepare();
                    guests.push_back({ std::move(socket), Clock::now(), false });
                } else {
                    // Out of descriptors: the one that waits is not gone.
                    std::this_thread::sleep_for(std::chrono::milliseconds(STEP_MS));
                }
            }
        }
    }

    Socket listener;
    std::list<Guest> guests;
    std::mutex mutex;
    std::condition_variable came;
    std::queue<Socket> waiting;
};

Door::Door(Socket listener) : room(std::make_shared<Room>(std::move(listener))) {
    std::thread([room = room] { room->work(); }).detach();
}

Socket Door::next() {
    std::unique_lock<std::mutex> lock(room->mutex);
    room->came.wait(lock, [this] { return !room->waiting.empty(); });
    Socket socket = std::move(room->waiting.front());
    room->waiting.pop();
    return socket;
}

}  // namespace flexinfer
