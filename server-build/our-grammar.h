// Called from each loop of llama.cpp's grammar code that a grammar can make long.
#pragma once
#include <cstddef>

// `elements` of a stack that is kept, 0 where none is. Throws when one call has taken too much.
void flexinfer_grammar_step(size_t elements);
