/* Included before httplib.cpp: how large a body may be is decided when the server starts, and how
 * slowly a request may come is bounded, and what it begins with is looked at. */
#pragma once
#include "our-hooks.h"
#include "our-pace.h"
#define CPPHTTPLIB_PAYLOAD_MAX_LENGTH ((size_t) flexinfer_hooks.body_bytes)
#define CPPHTTPLIB_SEND_FLAGS flexinfer_pace::sending()
#define recv flexinfer_pace::receive
#define accept4 flexinfer_pace::accept
