// Bytes on x86: from columns to the rows of a view, and past the caches to memory.
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace {

// A pair of int16, as one int32.
inline int32_t pair_at(const int16_t* p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

// in: 16 columns of 32 bytes, `stride` apart. out: 32 rows of 16 bytes, `out_stride` apart.
inline void transpose_bytes(const uint8_t* in, ptrdiff_t stride, uint8_t* out, ptrdiff_t out_stride) {
    __m256i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm256_loadu_si256((const __m256i*)(in + i * stride));
    // Each round interleaves columns i and i + 8; after four rounds row r of a lane stands in register r.
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 8; i++) {
            a[2 * i] = _mm256_unpacklo_epi8(b[i], b[i + 8]);
            a[2 * i + 1] = _mm256_unpackhi_epi8(b[i], b[i + 8]);
        }
    }
    for (int i = 0; i < 16; i++) {
        _mm_storeu_si128((__m128i*)(out + i * out_stride), _mm256_castsi256_si128(a[i]));
        _mm_storeu_si128((__m128i*)(out + (i + 16) * out_stride), _mm256_extracti128_si256(a[i], 1));
    }
}

// Copies to memory past the caches, in order; `end_streams` makes it visible to other threads.
inline void stream(void* to, const void* from, size_t bytes) {
    uint8_t* out = (uint8_t*)to;
    const uint8_t* in = (const uint8_t*)from;
    size_t head = -(uintptr_t)out & 31;
    head = head < bytes ? head : bytes;
    memcpy(out, in, head);
    size_t at = head;
    for (; at + 32 <= bytes; at += 32)
        _mm256_stream_si256((__m256i*)(out + at), _mm256_loadu_si256((const __m256i*)(in + at)));
    memcpy(out + at, in + at, bytes - at);
}
inline void end_streams() { _mm_sfence(); }

}  // namespace
