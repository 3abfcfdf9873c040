// The vector of 32 int16 and its operations, for AVX-512 (F, BW, VL, DQ, VNNI).
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "bytes_x86.h"

namespace {

typedef __m512i V;
constexpr int W = 32;  // int16 per vector
typedef __mmask32 Mask;

inline V load(const int16_t* p) { return _mm512_loadu_si512(p); }
inline void store(int16_t* p, V a) { _mm512_storeu_si512(p, a); }
inline V fill(int a) { return _mm512_set1_epi16((short)a); }
inline V fill_pair(const int16_t* pair) { return _mm512_set1_epi32(pair_at(pair)); }  // of two equal int16
inline V add(V a, V b) { return _mm512_add_epi16(a, b); }
inline V sub(V a, V b) { return _mm512_sub_epi16(a, b); }
inline V add_saturated(V a, V b) { return _mm512_adds_epi16(a, b); }
inline V multiply(V a, V b) { return _mm512_mulhrs_epi16(a, b); }  // (a b + 2^14) >> 15
inline V smaller(V a, V b) { return _mm512_min_epi16(a, b); }
inline V larger(V a, V b) { return _mm512_max_epi16(a, b); }
inline V absolute(V a) { return _mm512_abs_epi16(a); }
template <int N> inline V left(V a) { return _mm512_slli_epi16(a, N); }
template <int N> inline V right(V a) { return _mm512_srai_epi16(a, N); }
inline V left_by(V a, int n) { return _mm512_sll_epi16(a, _mm_cvtsi32_si128(n)); }
inline Mask equal(V a, V b) { return _mm512_cmpeq_epi16_mask(a, b); }
inline Mask greater(V a, V b) { return _mm512_cmpgt_epi16_mask(a, b); }
inline Mask first_lanes(int n) { return n >= W ? ~0u : (1u << n) - 1; }
inline bool any(Mask m) { return m != 0; }
inline V choose(Mask m, V yes, V no) { return _mm512_mask_blend_epi16(m, no, yes); }

// int16 [W] to uint8 [W], clamped to 0..255.
inline void store_bytes(uint8_t* p, V a) {
    V positive = _mm512_max_epi16(a, _mm512_setzero_si512());
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtusepi16_epi8(positive));
}

// Adds the sums of neighbouring pairs to 16 int32 sums.
typedef __m512i Sums;
inline Sums no_sums() { return _mm512_setzero_si512(); }
inline Sums add_pairs(Sums s, V a) { return _mm512_add_epi32(s, _mm512_madd_epi16(a, _mm512_set1_epi16(1))); }
inline int64_t total(Sums s) {
    int32_t parts[16];
    _mm512_storeu_si512(parts, s);
    int64_t sum = 0;
    for (int32_t part : parts) sum += part;
    return sum;
}

// round(d value / chroma) where all are in 0..4080 and chroma > 0: d value < 2^24 is exact in float.
inline __m256i quotient_half(__m256i d, __m256i value, __m256i chroma) {
    __m512 product = _mm512_cvtepi32_ps(_mm512_mullo_epi32(_mm512_cvtepi16_epi32(d), _mm512_cvtepi16_epi32(value)));
    __m512 ratio = _mm512_div_ps(product, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(chroma)));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(ratio));
}
inline V quotient(V d, V value, V chroma) {
    __m256i low = quotient_half(_mm512_castsi512_si256(d), _mm512_castsi512_si256(value), _mm512_castsi512_si256(chroma));
    __m256i high = quotient_half(_mm512_extracti64x4_epi64(d, 1), _mm512_extracti64x4_epi64(value, 1),
                                 _mm512_extracti64x4_epi64(chroma, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Weighted sum of uint8 rows, two rows at a time: out[i] = (sum_t weight[t] rows[t][i] + 2^7) >> 8 for 2 W samples.
// A 128-bit lane holds 16 samples; its lower 8 go to out[0..W), its upper 8 to out[W..2W).
inline void weigh_rows(const uint8_t* const* rows, const int16_t* weights, int pairs, ptrdiff_t at, int16_t* out) {
    const V zero = _mm512_setzero_si512();
    V s0 = _mm512_set1_epi32(1 << 7), s1 = s0, s2 = s0, s3 = s0;
    for (int t = 0; t < pairs; t++) {
        V a = _mm512_loadu_si512(rows[2 * t] + at), b = _mm512_loadu_si512(rows[2 * t + 1] + at);
        V weight = _mm512_set1_epi32(pair_at(weights + 2 * t));
        V low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
        s0 = _mm512_dpwssd_epi32(s0, _mm512_unpacklo_epi8(low, zero), weight);
        s1 = _mm512_dpwssd_epi32(s1, _mm512_unpackhi_epi8(low, zero), weight);
        s2 = _mm512_dpwssd_epi32(s2, _mm512_unpacklo_epi8(high, zero), weight);
        s3 = _mm512_dpwssd_epi32(s3, _mm512_unpackhi_epi8(high, zero), weight);
    }
    store(out, _mm512_packs_epi32(_mm512_srai_epi32(s0, 8), _mm512_srai_epi32(s1, 8)));
    store(out + W, _mm512_packs_epi32(_mm512_srai_epi32(s2, 8), _mm512_srai_epi32(s3, 8)));
}

inline V rows_of(const int16_t* p, ptrdiff_t stride) {  // lane j: eight samples of row 8 j
    V v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 8 * stride)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 16 * stride)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 24 * stride)), 3);
}

// Interleave the lower or upper halves of every 128-bit lane, in units of so many bits.
inline V low16(V a, V b) { return _mm512_unpacklo_epi16(a, b); }
inline V high16(V a, V b) { return _mm512_unpackhi_epi16(a, b); }
inline V low32(V a, V b) { return _mm512_unpacklo_epi32(a, b); }
inline V high32(V a, V b) { return _mm512_unpackhi_epi32(a, b); }
inline V low64(V a, V b) { return _mm512_unpacklo_epi64(a, b); }
inline V high64(V a, V b) { return _mm512_unpackhi_epi64(a, b); }

// 16 samples, normalised, past the caches; `out` is aligned to what is written.
inline __m512 normalised(const uint8_t* in, const float* scale, const float* shift) {
    __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)in)));
    return _mm512_add_ps(_mm512_mul_ps(value, _mm512_loadu_ps(scale)), _mm512_loadu_ps(shift));
}
inline void stream16(float* out, const uint8_t* in, const float* scale, const float* shift) {
    _mm512_stream_ps(out, normalised(in, scale, shift));
}
inline void stream16(uint16_t* out, const uint8_t* in, const float* scale, const float* shift) {
    __m512i bits = _mm512_castps_si512(normalised(in, scale, shift));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
    _mm256_stream_si256((__m256i*)out, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

}  // namespace

#include "transpose_x86.h"
