# llama-cpp-python forces the library of llama.cpp's own programs on, which takes longer to compile than all the rest and
# is used by none of its modules. A plain variable goes before the cache's (policies CMP0077 and CMP0126).
set(LLAMA_BUILD_COMMON OFF)
