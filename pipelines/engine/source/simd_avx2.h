// The vector of 16 int16 and its operations, for AVX2. Each means what it means in simd_avx512.h.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "bytes_x86.h"

namespace {

typedef __m256i V;
constexpr int W = 16;
typedef __m256i Mask;

inline V load(const int16_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline void store(int16_t* p, V a) { _mm256_storeu_si256((__m256i*)p, a); }
inline V fill(int a) { return _mm256_set1_epi16((short)a); }
inline V fill_pair(const int16_t* pair) { return _mm256_set1_epi32(pair_at(pair)); }  // of two equal int16
inline V add(V a, V b) { return _mm256_add_epi16(a, b); }
inline V sub(V a, V b) { return _mm256_sub_epi16(a, b); }
inline V add_saturated(V a, V b) { return _mm256_adds_epi16(a, b); }
inline V multiply(V a, V b) { return _mm256_mulhrs_epi16(a, b); }
inline V smaller(V a, V b) { return _mm256_min_epi16(a, b); }
inline V larger(V a, V b) { return _mm256_max_epi16(a, b); }
inline V absolute(V a) { return _mm256_abs_epi16(a); }
template <int N> inline V left(V a) { return _mm256_slli_epi16(a, N); }
template <int N> inline V right(V a) { return _mm256_srai_epi16(a, N); }
inline V left_by(V a, int n) { return _mm256_sll_epi16(a, _mm_cvtsi32_si128(n)); }
inline Mask equal(V a, V b) { return _mm256_cmpeq_epi16(a, b); }
inline Mask greater(V a, V b) { return _mm256_cmpgt_epi16(a, b); }
inline Mask first_lanes(int n) {
    return greater(fill(n), _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline bool any(Mask m) { return !_mm256_testz_si256(m, m); }
inline V choose(Mask m, V yes, V no) { return _mm256_blendv_epi8(no, yes, m); }

inline void store_bytes(uint8_t* p, V a) {
    __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storeu_si128((__m128i*)p, packed);
}

typedef __m256i Sums;
inline Sums no_sums() { return _mm256_setzero_si256(); }
inline Sums add_pairs(Sums s, V a) { return _mm256_add_epi32(s, _mm256_madd_epi16(a, _mm256_set1_epi16(1))); }
inline int64_t total(Sums s) {
    int32_t parts[8];
    _mm256_storeu_si256((__m256i*)parts, s);
    int64_t sum = 0;
    for (int32_t part : parts) sum += part;
    return sum;
}

inline __m128i quotient_half(__m128i d, __m128i value, __m128i chroma) {
    __m256 product = _mm256_cvtepi32_ps(_mm256_mullo_epi32(_mm256_cvtepi16_epi32(d), _mm256_cvtepi16_epi32(value)));
    __m256i ratio = _mm256_cvtps_epi32(_mm256_div_ps(product, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(chroma))));
    return _mm_packs_epi32(_mm256_castsi256_si128(ratio), _mm256_extracti128_si256(ratio, 1));
}
inline V quotient(V d, V value, V chroma) {
    __m128i low = quotient_half(_mm256_castsi256_si128(d), _mm256_castsi256_si128(value), _mm256_castsi256_si128(chroma));
    __m128i high = quotient_half(_mm256_extracti128_si256(d, 1), _mm256_extracti128_si256(value, 1),
                                 _mm256_extracti128_si256(chroma, 1));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

inline void weigh_rows(const uint8_t* const* rows, const int16_t* weights, int pairs, ptrdiff_t at, int16_t* out) {
    const V zero = _mm256_setzero_si256();
    V s0 = _mm256_set1_epi32(1 << 7), s1 = s0, s2 = s0, s3 = s0;
    for (int t = 0; t < pairs; t++) {
        V a = _mm256_loadu_si256((const __m256i*)(rows[2 * t] + at));
        V b = _mm256_loadu_si256((const __m256i*)(rows[2 * t + 1] + at));
        V weight = _mm256_set1_epi32(pair_at(weights + 2 * t));
        V low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weight));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weight));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weight));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weight));
    }
    store(out, _mm256_packs_epi32(_mm256_srai_epi32(s0, 8), _mm256_srai_epi32(s1, 8)));
    store(out + W, _mm256_packs_epi32(_mm256_srai_epi32(s2, 8), _mm256_srai_epi32(s3, 8)));
}

inline V rows_of(const int16_t* p, ptrdiff_t stride) {
    V v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)p));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i*)(p + 8 * stride)), 1);
}

inline V low16(V a, V b) { return _mm256_unpacklo_epi16(a, b); }
inline V high16(V a, V b) { return _mm256_unpackhi_epi16(a, b); }
inline V low32(V a, V b) { return _mm256_unpacklo_epi32(a, b); }
inline V high32(V a, V b) { return _mm256_unpackhi_epi32(a, b); }
inline V low64(V a, V b) { return _mm256_unpacklo_epi64(a, b); }
inline V high64(V a, V b) { return _mm256_unpackhi_epi64(a, b); }

inline __m256 normalised(const uint8_t* in, const float* scale, const float* shift) {
    __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)in)));
    return _mm256_add_ps(_mm256_mul_ps(value, _mm256_loadu_ps(scale)), _mm256_loadu_ps(shift));
}
inline __m256i rounded_half(const uint8_t* in, const float* scale, const float* shift) {
    __m256i bits = _mm256_castps_si256(normalised(in, scale, shift));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF)), 16);
}
inline void stream16(float* out, const uint8_t* in, const float* scale, const float* shift) {
    _mm256_stream_ps(out, normalised(in, scale, shift));
    _mm256_stream_ps(out + 8, normalised(in + 8, scale + 8, shift + 8));
}
inline void stream16(uint16_t* out, const uint8_t* in, const float* scale, const float* shift) {
    __m256i low = rounded_half(in, scale, shift), high = rounded_half(in + 8, scale + 8, shift + 8);
    _mm256_stream_si256((__m256i*)out, _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8));
}

}  // namespace

#include "transpose_x86.h"
