// The vector of 8 int16 and its operations in plain C++, for any processor. Each means what it means in simd_avx512.h.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "put.h"

namespace {

constexpr int W = 8;
struct V {
    int16_t at[W];
};
typedef V Mask;

template <class F> inline V each(F f) {
    V out;
    for (int i = 0; i < W; i++) out.at[i] = (int16_t)f(i);
    return out;
}
inline int saturated(int a) { return a > INT16_MAX ? INT16_MAX : a < INT16_MIN ? INT16_MIN : a; }

inline V load(const int16_t* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline void store(int16_t* p, V a) { memcpy(p, &a, sizeof a); }
inline V fill(int a) { return each([=](int) { return a; }); }
inline V fill_pair(const int16_t* pair) { return fill(*pair); }  // of two equal int16
inline V add(V a, V b) { return each([&](int i) { return a.at[i] + b.at[i]; }); }
inline V sub(V a, V b) { return each([&](int i) { return a.at[i] - b.at[i]; }); }
inline V add_saturated(V a, V b) { return each([&](int i) { return saturated(a.at[i] + b.at[i]); }); }
inline V multiply(V a, V b) { return each([&](int i) { return (a.at[i] * b.at[i] + (1 << 14)) >> 15; }); }
inline V smaller(V a, V b) { return each([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; }); }
inline V larger(V a, V b) { return each([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; }); }
inline V absolute(V a) { return each([&](int i) { return a.at[i] < 0 ? -a.at[i] : a.at[i]; }); }
inline V left_by(V a, int n) { return each([&](int i) { return (uint16_t)a.at[i] << n; }); }
template <int N> inline V left(V a) { return left_by(a, N); }
template <int N> inline V right(V a) { return each([&](int i) { return a.at[i] >> N; }); }
inline Mask equal(V a, V b) { return each([&](int i) { return a.at[i] == b.at[i] ? -1 : 0; }); }
inline Mask greater(V a, V b) { return each([&](int i) { return a.at[i] > b.at[i] ? -1 : 0; }); }
inline Mask first_lanes(int n) { return each([=](int i) { return i < n ? -1 : 0; }); }
inline bool any(Mask m) {
    int found = 0;
    for (int i = 0; i < W; i++) found |= m.at[i];
    return found != 0;
}
inline V choose(Mask m, V yes, V no) { return each([&](int i) { return m.at[i] ? yes.at[i] : no.at[i]; }); }

inline void store_bytes(uint8_t* p, V a) {
    for (int i = 0; i < W; i++) p[i] = (uint8_t)(a.at[i] < 0 ? 0 : a.at[i] > 255 ? 255 : a.at[i]);
}

typedef int64_t Sums;
inline Sums no_sums() { return 0; }
inline Sums add_pairs(Sums s, V a) {
    int sum = 0;
    for (int i = 0; i < W; i++) sum += a.at[i];
    return s + sum;
}
inline int64_t total(Sums s) { return s; }

inline V quotient(V d, V value, V chroma) {
    return each([&](int i) { return __builtin_rintf((float)(d.at[i] * value.at[i]) / (float)chroma.at[i]); });
}

inline void weigh_rows(const uint8_t* const* rows, const int16_t* weights, int pairs, ptrdiff_t at, int16_t* out) {
    int32_t sums[2 * W];
    for (int i = 0; i < 2 * W; i++) sums[i] = 1 << 7;
    for (int t = 0; t < pairs; t++) {
        const uint8_t *a = rows[2 * t] + at, *b = rows[2 * t + 1] + at;
        for (int i = 0; i < 2 * W; i++) sums[i] += weights[2 * t] * a[i] + weights[2 * t + 1] * b[i];
    }
    for (int i = 0; i < 2 * W; i++) out[i] = (int16_t)(sums[i] >> 8);
}

// out[i][row] = in[row][i] for eight samples of W rows.
inline void transpose8(const int16_t* in, ptrdiff_t stride, int16_t* out) {
    for (int i = 0; i < 8; i++)
        for (int row = 0; row < W; row++) out[i * W + row] = in[row * stride + i];
}

inline void transpose_bytes(const uint8_t* in, ptrdiff_t stride, uint8_t* out, ptrdiff_t out_stride) {
    for (int y = 0; y < 32; y++)
        for (int i = 0; i < 16; i++) out[y * out_stride + i] = in[i * stride + y];
}

inline void stream(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
inline void end_streams() {}

template <class T> inline void stream16(T* out, const uint8_t* in, const float* scale, const float* shift) {
    for (int i = 0; i < 16; i++) put(out + i, in[i] * scale[i] + shift[i]);
}

}  // namespace
