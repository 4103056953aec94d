// What is the sender's fault: requests that cannot be read are a 400, and connections that say nothing
// wait in the kernel instead of a thread.
#include "our-hooks.h"
#include "our-http.h"
#include "our-program.h"
#undef server_http_context
#undef server_context
#undef server_routes

#include "server-common.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <new>
#include <stdexcept>
#include <system_error>

namespace {

// A connection without a byte is handed over, and closed, after so long.
constexpr int SILENT_SECONDS = 10;

using handler_t = server_http_context::handler_t;

json sentence(const std::string & message, int status) {
    json error = format_error_response(message, ERROR_TYPE_INVALID_REQUEST);
    error["code"] = status;
    return {{"error", error}};
}

// llama.cpp's server takes whatever is thrown, but for one type, for a fault of its own.
handler_t understood(const handler_t & handler) {
    return [handler](const server_http_req & req) -> server_http_res_ptr {
        try {
            return handler(req);
        } catch (const std::bad_alloc &) {
            throw;
        } catch (const std::system_error &) {
            throw;
        } catch (const std::exception & error) {
            throw std::invalid_argument(error.what());
        }
    };
}

}  // namespace

flexinfer_routes::flexinfer_routes(const common_params & params, server_context & context)
    : server_routes(params, context) {
    for (handler_t * handler : {
             &post_slots, &post_props, &post_infill, &post_completions, &post_completions_oai,
             &post_chat_completions, &post_chat_completions_tok, &post_control, &post_responses_oai,
             &post_responses_tok_oai, &post_transcriptions_oai, &post_anthropic_messages,
             &post_anthropic_count_tokens, &post_apply_template, &post_tokenize, &post_detokenize,
             &post_embeddings, &post_embeddings_oai, &post_rerank, &post_lora_adapters}) {
        *handler = understood(*handler);
    }
}

// Whatever httplib refuses by itself has a status and no words.
httplib::Server::Handler flexinfer_errors(httplib::Server::Handler handler) {
    return [handler](const httplib::Request & req, httplib::Response & res) {
        std::string said;
        if (res.status == 413) {
            said = "the request is larger than the " + std::to_string(flexinfer_hooks.body_bytes) +
                " bytes that this server takes; send less, or give it a larger --ctx";
        } else if (res.body.empty() && res.status >= 400 && res.status < 500 && res.status != 404) {
            said = std::string("the request cannot be read (") + httplib::status_message(res.status) +
                "); send JSON with its Content-Length, not encoded in any way";
        } else {
            return handler(req, res);
        }
        res.set_content(safe_json_to_str(sentence(said, res.status)), "application/json; charset=utf-8");
    };
}

httplib::SocketOptions flexinfer_listening(httplib::SocketOptions options) {
    return [options](socket_t sock) {
        options(sock);
        // Not for sockets of files, where it means nothing.
        const int seconds = SILENT_SECONDS;
        setsockopt(sock, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
    };
}
