/* Stands in for a library of llama-cpp-python while ours is linked; ISO C has no empty file. */
int flexinfer_stub;
