// Included before llama.cpp's server.cpp: its three collaborators become ours, which add to them.
#pragma once
#include "server-context.h"
#include "server-http.h"
#include "server-models.h"
#include "server-stream.h"
#include "server-tools.h"

struct flexinfer_http : server_http_context {
    void get(const std::string & path, const handler_t & handler) const;
    void post(const std::string & path, const handler_t & handler) const;
    bool start();
};

struct flexinfer_context : server_context {
    flexinfer_context();
    void start_loop();
};

struct flexinfer_routes : server_routes {
    flexinfer_routes(const common_params & params, server_context & context);
};

#define server_http_context flexinfer_http
#define server_routes flexinfer_routes
#define server_context flexinfer_context
