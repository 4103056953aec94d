// Included before llama.cpp's ggml-rpc.cpp: what it would print belongs to whoever called it.
#pragma once
#include <cstdio>

#include "ggml-impl.h"

#define printf(...) ((void) 0)
