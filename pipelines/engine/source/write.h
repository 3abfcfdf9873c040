// From columns of bytes to the rows of a view: uint8, or normalised to bfloat16 or float32.
#pragma once
#include <string.h>

#include "engine.h"
#include "put.h"

namespace {

// What normalises samples of three channels in turn, the first a red one: enough to read 16 from any place of 48.
struct Normaliser {
    float scale[64], shift[64];
};
inline Normaliser normaliser_of(const Settings& settings) {
    Normaliser normaliser;
    for (int i = 0; i < 64; i++) {
        normaliser.scale[i] = settings.scale[i % 3];
        normaliser.shift[i] = settings.shift[i % 3];
    }
    return normaliser;
}

// Normalises to float32 or bfloat16 and streams to memory.
template <class T> inline void stream_normalised(T* out, const uint8_t* in, int count, const Normaliser& normaliser) {
    int i = 0;
    auto one = [&] {
        put(out + i, in[i] * normaliser.scale[i % 3] + normaliser.shift[i % 3]);
        i++;
    };
    while (i < count && (uintptr_t)(out + i) % 64 != 0) one();
    for (; i + 16 <= count; i += 16)
        stream16(out + i, in + i, normaliser.scale + i % 48, normaliser.shift + i % 48);
    while (i < count) one();
}

// Bytes [3 size][stride] to the view's rows, as uint8 or normalised. 32 rows at a time are turned in the cache and then
// streamed to memory in order, past the caches: a batch does not fit in them, and a store that misses would first read
// the line that it overwrites.
inline bool write_rows(Scratch* scratch, const uint8_t* bytes, int stride, const View& view, const Settings& settings) {
    const int length = 3 * view.size;
    uint8_t* lines = (uint8_t*)relic_scratch(scratch, LINES, (size_t)32 * length);
    if (!lines) return false;
    const Normaliser normaliser = normaliser_of(settings);
    for (int y = 0; y < view.size; y += 32) {
        const int rows = view.size - y < 32 ? view.size - y : 32;
        for (int k = 0; k < length; k += 16) {
            const uint8_t* in = bytes + (ptrdiff_t)k * stride + y;
            if (length - k >= 16) {
                transpose_bytes(in, stride, lines + k, length);
                continue;
            }
            uint8_t block[32 * 16];
            transpose_bytes(in, stride, block, 16);
            for (int row = 0; row < 32; row++) memcpy(lines + row * length + k, block + 16 * row, length - k);
        }
        const ptrdiff_t from = (ptrdiff_t)y * length;
        if (settings.output == UINT8) {
            stream((uint8_t*)view.output + from, lines, (size_t)rows * length);
            continue;
        }
        if (settings.output == FLOAT32)
            stream_normalised((float*)view.output + from, lines, rows * length, normaliser);
        else
            stream_normalised((uint16_t*)view.output + from, lines, rows * length, normaliser);
    }
    return true;
}

}  // namespace
