// What flexinfer adds to llama.cpp's server: routes, sentences, bounds, and an orderly end.
#include "our-drafts.h"
#include "our-gate.h"
#include "our-hooks.h"
#include "our-pace.h"
#include "our-program.h"
#undef server_http_context
#undef server_routes
#undef server_context

#include "build-info.h"
#include "download.h"
#include "server-common.h"
#include "server-schema.h"

#include <cpp-httplib/httplib.h>

#include <malloc.h>

#include <atomic>
#include <mutex>
#include <sstream>

#define ENTRY extern "C" __attribute__((visibility("default")))

int llama_server(int argc, char ** argv);
void llama_server_terminate();
// What our-http.h asks for.
void flexinfer_received();

// llama.cpp's own, under the name that CMakeLists.txt gives them.
json llama_format_error_response(const std::string & message, const enum error_type type);
namespace server_schema {
task_params llama_eval_cmpl_schema(const llama_vocab *, const common_params &,
                                   const std::vector<llama_logit_bias> &, const json &);
}

namespace {

using handler_t = server_http_context::handler_t;

std::atomic<bool> stopping{false};
std::atomic<int> port{0};
// Requests for text or vectors that are not yet answered, those that wait for a slot among them.
std::atomic<int64_t> requests{0};
std::mutex failure_lock;
std::string failure;

const char * const NO_URL =
    "images are read from no URL, neither another host's nor a file's; send data:image/png;base64, and the image";
// How the sentences of grammar.cpp begin, of which llama.cpp makes faults of the server.
const char * const GRAMMARS[] = {
    "llama.cpp cannot follow the grammar", "llama.cpp does not read the grammar", "the grammar allows none",
    "a regular expression in grammar_triggers", "grammar_triggers has"};
const char * const STOPPING = "the server is stopping; send the request again once it runs";
// One probability of one token: its text, its bytes and its number, as kept and as JSON.
constexpr int64_t PROBABILITY_BYTES = 512;
// Memory that a request takes by byte of its body and by value of its JSON: text is tokenized with a
// symbol for each character; where bodies may hold images that is counted in media.cpp.
constexpr int64_t TEXT_COST = 100;
constexpr int64_t COPY_COST = 6;
constexpr int64_t VALUE_COST = 128;
// A schema becomes rules named after all keys above theirs: so much by byte of a key, and by value for
// the names that llama.cpp gives, for each level of the deepest.
constexpr int64_t NAME_COST = 6;
constexpr int64_t NAME_BYTES = 2;
constexpr int64_t LARGE = 1 << 20;
// Bodies beyond it are received within `receive_bytes`; those below come on every thread at once.
constexpr int64_t LARGE_BODY = 64 << 10;

struct reply {
    int status = 500;
    std::string type, data;
};

reply ask(const std::string & route, const std::string & body) {
    reply got;
    flexinfer_hooks.answer(route.c_str(), body.c_str(), &got);
    return got;
}

// The body of a GET of ours is what the server itself counts.
handler_t ours(const std::string & method, const std::string & path) {
    return [method, path](const server_http_req & req) -> server_http_res_ptr {
        const reply got = ask(method + " " + path,
            method == "GET" ? safe_json_to_str({{"requests", requests.load()}}) : req.body);
        auto res = std::make_unique<server_http_res>();
        res->status = got.status;
        res->content_type = got.type;
        res->data = got.data;
        if (path == "/") {
            res->headers = {{"X-Frame-Options", "DENY"}, {"X-Content-Type-Options", "nosniff"},
                            {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-cache"}};
        }
        return res;
    };
}

// What a request counts for as long as it lives.
struct counted {
    // How often it asks for probabilities.
    int64_t probing = 0;
    counted() { requests++; }
    ~counted() {
        requests--;
        flexinfer_probing -= probing;
    }
};

// The request that this thread reads.
thread_local counted * reading = nullptr;

// Requests are read a few at a time, so that together they take no more than was planned; so are
// large bodies received, each of which this thread holds until it is read.
Gate gate, received;
thread_local int64_t held = 0;

// What the names of the rules take at most that schemas anywhere in a body become.
int64_t names_cost(const std::string & body) {
    int64_t depth = 0, deepest = 0, bytes = 0, length = 0;
    bool quoted = false;
    for (size_t at = 0; at < body.size(); at++) {
        const char c = body[at];
        if (quoted) {
            quoted = c != '"';
            length += quoted;
            at += c == '\\';
        } else if (c == '"') {
            quoted = true;
            length = 0;
        } else if (c == ':') {
            bytes += length + NAME_BYTES;
        } else if (c == '[' || c == '{') {
            deepest = std::max(deepest, ++depth);
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (c == ',') {
            bytes += NAME_BYTES;
        }
    }
    return NAME_COST * deepest * bytes;
}

int64_t cost_of(const server_http_req & req) {
    int64_t size = req.body.size(), values = 0;
    for (const auto & file : req.files) {
        size += file.second.data.size();
    }
    for (const char c : req.body) {
        values += c == '[' || c == '{' || c == ',' || c == ':';
    }
    return (flexinfer_hooks.text_bytes ? COPY_COST : TEXT_COST) * size + VALUE_COST * values + names_cost(req.body);
}

server_http_res_ptr refused(const std::string & message, const error_type type) {
    const json error = llama_format_error_response(message, type);
    auto res = std::make_unique<server_http_res>();
    res->status = json_value(error, "code", 400);
    res->data = safe_json_to_str({{"error", error}});
    return res;
}

handler_t gated(const handler_t & handler) {
    return [handler](const server_http_req & req) -> server_http_res_ptr {
        const int64_t cost = cost_of(req);
        if (cost > flexinfer_hooks.request_bytes) {
            return refused("reading this request takes " + std::to_string(cost) + " bytes of memory, of which " +
                std::to_string(flexinfer_hooks.request_bytes) + " are kept for requests; send less, or give the "
                "server a larger --ctx or --memory", ERROR_TYPE_INVALID_REQUEST);
        }
        if (!gate.enter(cost, flexinfer_hooks.request_bytes, req.should_stop)) {
            return refused(STOPPING, ERROR_TYPE_UNAVAILABLE);
        }
        flexinfer_received();
        const std::unique_ptr<const int64_t, void (*)(const int64_t *)> entered(
            &cost, [](const int64_t * cost) {
                gate.leave(*cost);
                if (*cost > LARGE) {
                    malloc_trim(0);
                }
            });
        return handler(req);
    };
}

std::string stopped() {
    return safe_json_to_str({{"error", format_error_response(STOPPING, ERROR_TYPE_UNAVAILABLE)}});
}

// The last words of a stream that is cut off.
std::string last_event(const std::string & path) {
    const bool named = path.find("/messages") != std::string::npos;
    return (named ? "event: error\ndata: " : "data: ") + stopped() + "\n\n";
}

// A request that the end of the server meets gets an error instead of silence.
handler_t ended(const handler_t & handler) {
    return [handler](const server_http_req & given) -> server_http_res_ptr {
        auto & req = const_cast<server_http_req &>(given);
        // Whoever names a conversation has its text kept after the connection is gone.
        for (auto at = req.headers.begin(); at != req.headers.end();) {
            const bool kept = strcasecmp(at->first.c_str(), "X-Conversation-Id") == 0;
            at = kept ? req.headers.erase(at) : std::next(at);
        }
        auto & closed = const_cast<std::function<bool()> &>(req.should_stop);
        closed = [closed] { return stopping.load() || closed(); };
        const auto one = std::make_shared<counted>();
        reading = one.get();
        auto res = handler(req);
        reading = nullptr;
        if (!res->is_stream()) {
            if (stopping && res->data.empty()) {
                res->status = 503;
                res->data = stopped();
            }
            return res;
        }
        res->next = [next = std::move(res->next), path = req.path, one](std::string & output) {
            const bool more = next(output);
            const auto says = [&output](const char * text) { return output.find(text) != std::string::npos; };
            if (!more && stopping && !says("[DONE]") && !says("\"error\"")) {
                output += last_event(path);
            }
            return more;
        };
        return res;
    };
}

}  // namespace

flexinfer_context::flexinfer_context() = default;

void flexinfer_context::start_loop() {
    if (flexinfer_hooks.ready(port) == 0) {
        server_context::start_loop();
    }
}

void flexinfer_http::get(const std::string & path, const handler_t & handler) const {
    if (path != "/metrics") {
        return server_http_context::get(path, handler);
    }
    server_http_context::get(path, [handler](const server_http_req & req) {
        auto res = handler(req);
        if (res->status == 200) {
            res->data += ask("GET /metrics", "").data;
        }
        return res;
    });
}

void flexinfer_http::post(const std::string & path, const handler_t & handler) const {
    server_http_context::post(path, ended(gated(handler)));
}

bool flexinfer_http::start() {
    std::istringstream routes(flexinfer_hooks.routes);
    for (std::string method, path; routes >> method >> path;) {
        if (method == "GET") {
            server_http_context::get(path, ours(method, path));
        } else {
            server_http_context::post(path, ours(method, path));
        }
    }
    const bool started = server_http_context::start();
    ::port = server_http_context::port;
    return started;
}

void flexinfer_received() {
    if (held) {
        received.leave(held);
        held = 0;
    }
}

httplib::Server::HandlerResponse flexinfer_receive(const httplib::Request & req, httplib::Response & res) {
    flexinfer_received();
    // The next request on this connection may be of another kind.
    if (flexinfer_pace::served != flexinfer_pace::Lane::answers) {
        const_cast<httplib::Request &>(req).set_header("Connection", "close");
    }
    // Packed or in chunks, only its end tells its length.
    const bool told = req.has_header("Content-Length") && !req.has_header("Content-Encoding");
    const int64_t most = flexinfer_hooks.body_bytes;
    const int64_t length = told ? std::min<uint64_t>(req.get_header_value_u64("Content-Length"), most) : most;
    if (req.method == "GET" || length <= LARGE_BODY) {
        return httplib::Server::HandlerResponse::Unhandled;
    }
    if (!received.enter(length, flexinfer_hooks.receive_bytes, [] { return stopping.load(); })) {
        res.status = 503;
        res.set_content(stopped(), "application/json; charset=utf-8");
        return httplib::Server::HandlerResponse::Handled;
    }
    held = length;
    // Its sender is not to blame for this wait.
    flexinfer_pace::end_reading();
    return httplib::Server::HandlerResponse::Unhandled;
}

// What it would fetch, nobody has counted.
std::pair<long, std::vector<char>> flexinfer_remote_get_content(const std::string &, const common_remote_params &) {
    throw std::invalid_argument(NO_URL);
}

// The mistakes of a schema or a template come in lines, those of JSON with the name of the exception.
static std::string in_one_line(std::string text) {
    const size_t name = text.find("[json.exception.");
    const size_t end = name == std::string::npos ? name : text.find("] ", name);
    if (end != std::string::npos) {
        text.erase(name, end + 2 - name);
    }
    std::istringstream lines(text);
    std::string joined;
    for (std::string line; std::getline(lines, line);) {
        const size_t first = line.find_first_not_of(" \t\r");
        if (first == std::string::npos) {
            continue;
        }
        const std::string between = joined.empty() ? "" : joined.back() == ':' ? " " : "; ";
        joined += between + line.substr(first, line.find_last_not_of(" \t\r") + 1 - first);
    }
    return joined;
}

// llama.cpp has one text for whatever goes wrong in a pass, and advises a flag that is not passed on.
json format_error_response(const std::string & said, const enum error_type type) {
    const std::string message = in_one_line(said);
    const auto says = [&message](const char * text) { return message.find(text) != std::string::npos; };
    if (says("file:// URLs are not allowed")) {
        return llama_format_error_response(NO_URL, type);
    }
    for (const char * begin : GRAMMARS) {
        if (says(begin)) {
            return llama_format_error_response(message.substr(message.find(begin)), ERROR_TYPE_INVALID_REQUEST);
        }
    }
    if (says("Compute error.") || says("failed to process speculative batch")) {
        std::lock_guard<std::mutex> lock(failure_lock);
        if (!failure.empty()) {
            return llama_format_error_response(failure, stopping ? ERROR_TYPE_UNAVAILABLE : type);
        }
    }
    return llama_format_error_response(message, type);
}

// Probabilities of each token are kept until the answer is complete.
task_params server_schema::eval_llama_cmpl_schema(const llama_vocab * vocab, const common_params & params_base,
                                                  const std::vector<llama_logit_bias> & logit_bias_eog,
                                                  const json & data) {
    task_params params = llama_eval_cmpl_schema(vocab, params_base, logit_bias_eog, data);
    if (params.sampling.grammar.type == COMMON_GRAMMAR_TYPE_USER) {
        const reply checked = ask("CHECK grammar", params.sampling.grammar.grammar);
        if (checked.status != 200) {
            throw std::invalid_argument(checked.data);
        }
    }
    for (const auto & trigger : params.sampling.grammar_triggers) {
        if (trigger.type < COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN || trigger.type > COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL) {
            throw std::invalid_argument(
                "grammar_triggers has the type " + std::to_string(static_cast<int>(trigger.type)) +
                "; give 0 (token), 1 (word), 2 (pattern) or 3 (pattern of the whole text)");
        }
    }
    const int64_t asked = params.sampling.n_probs;
    const int64_t context = flexinfer_hooks.context;
    const int64_t tokens = params.n_predict < 0 ? context : std::min<int64_t>(params.n_predict, context);
    const int64_t most = flexinfer_hooks.probability_bytes / (PROBABILITY_BYTES * std::max<int64_t>(tokens, 1));
    if (asked < 0 || asked > most) {
        throw std::invalid_argument(
            "probabilities of " + std::to_string(asked) + " tokens at each of " + std::to_string(tokens) +
            " do not fit the memory budget; ask for 0 to " + std::to_string(most) + ", or for fewer tokens");
    }
    if (asked > 0 && reading != nullptr) {
        reading->probing++;
        flexinfer_probing++;
    }
    return params;
}

ENTRY const char * flexinfer_source() { return FLEXINFER_SOURCE; }

// Whether --ssl-key-file and --ssl-cert-file are known.
ENTRY int flexinfer_tls() {
#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
    return 1;
#else
    return 0;
#endif
}

ENTRY int flexinfer_server(int argc, char ** argv) {
    // What a request took goes back to the system when it is over, whichever thread answered it.
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
    return llama_server(argc, argv);
}

ENTRY void flexinfer_reply(void * to, int status, const char * type, const char * data) {
    auto & got = *static_cast<reply *>(to);
    got.status = status;
    got.type = type;
    got.data = data;
}

// What requests are told whose pass has just failed.
ENTRY void flexinfer_fail(const char * text) {
    std::lock_guard<std::mutex> lock(failure_lock);
    failure = text;
}

// Requests end with an error from now on; `flexinfer_server` returns once the pass is over.
ENTRY void flexinfer_stop() {
    stopping = true;
    llama_server_terminate();
}
