/* Included before httplib.cpp: how large a body may be is decided when the server starts. */
#pragma once
#include "our-hooks.h"
#define CPPHTTPLIB_PAYLOAD_MAX_LENGTH ((size_t) flexinfer_hooks.body_bytes)
