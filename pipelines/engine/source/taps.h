// Filter taps of a resize, in fixed point.
#pragma once
#include "engine.h"

namespace {

// Output i = sum over t < count of weights[i][t] input[first[i] + t]. All outputs have the same count, so that the loops
// over taps are predicted: weights are padded with zeros, and inputs must exist up to index first[i] + count - 1.
struct Taps {
    int32_t* first;
    int16_t* weights;
    int count;
};

enum Direction {
    DOWN,   // count is even and weights are [size][count]: rows are weighed in pairs
    ACROSS  // weights are [size][count][2], each twice, since a vector is filled fastest with 32 bits
};
// What a weight of one is. Near an edge a cubic's first weight grows to 9/8, which must fit in int16 when `multiply`
// divides by 2^15: so 7/8 of 2^15 across, and 8/7 of 2^14 down (2.3e-5 more than that, 0.006 grey levels of 255).
constexpr int ONE[] = {18725, 7 << 12};

inline int16_t* allocate(Scratch* scratch, Direction direction, int size, int count, Taps* taps) {
    taps->count = direction == DOWN ? (count + 1) & ~1 : count;
    const Use use = direction == DOWN ? VERTICAL_TAPS : HORIZONTAL_TAPS;
    taps->first = (int32_t*)relic_scratch(scratch, use, (size_t)size * (1 + taps->count) * sizeof(int32_t));
    return taps->first ? taps->weights = (int16_t*)(taps->first + size) : nullptr;
}

inline void set_weight(const Taps& taps, Direction direction, int i, int t, int32_t q) {
    const int at = i * taps.count + t;
    if (direction == DOWN)
        taps.weights[at] = (int16_t)q;
    else
        taps.weights[2 * at] = taps.weights[2 * at + 1] = (int16_t)q;
}

// Keys' cubic with a = -1/2, or the triangle; 0 <= x. Both halves are computed and one is chosen, so that it vectorises.
template <bool LINEAR> inline float filter(float x) {
    const float triangle = 1.0f - x;
    const float inner = (1.5f * x - 2.5f) * x * x + 1.0f;
    const float outer = ((2.5f - 0.5f * x) * x - 4.0f) * x + 2.0f;
    const float near = LINEAR ? triangle : inner, far = LINEAR ? 0.0f : outer;
    return x < 1.0f ? near : x < 2.0f ? far : 0.0f;
}

// table[t][i] = filter at tap t of output i, 0 beyond its window; sum[i] adds them up in the order of t.
template <bool LINEAR>
inline void weigh_taps(int longest, int size, float inverse, const float* __restrict offset, const int32_t* __restrict count,
                       float* __restrict table, float* __restrict sum) {
    for (int t = 0; t < longest; t++) {
        const float distance = (float)t;
        float* __restrict weights = table + (size_t)t * size;
        for (int i = 0; i < size; i++) {
            const float weight = filter<LINEAR>(__builtin_fabsf((offset[i] + distance) * inverse));
            weights[i] = t < count[i] ? weight : 0.0f;
            sum[i] += weights[i];
        }
    }
}

// Rounds weights times factor to integers, and subtracts them from what rest there is.
inline void round_taps(int longest, int size, const float* __restrict table, const float* __restrict factor,
                       int32_t* __restrict rounded, int32_t* __restrict rest) {
    for (int t = 0; t < longest; t++)
        for (int i = 0; i < size; i++) {
            const int32_t q = (int32_t)__builtin_rintf(table[(size_t)t * size + i] * factor[i]);
            rounded[(size_t)t * size + i] = q;
            rest[i] -= q;
        }
}

// Antialiased resize of `length` inputs to `size` outputs: the windows and weights of torch's
// interpolate(antialias=True), rounded; what rounding leaves over goes to the tap nearest to the centre, so that a flat
// picture stays what it is.
//
// The loops run over outputs, not taps, so that they vectorise. Every float operation is IEEE's and in a fixed order:
// all builds and the numba twin compute the same weights.
//
// Where blocks of `block` inputs were averaged, `length` is what it was before, and taps count blocks.
inline bool resize_taps(Scratch* scratch, Direction direction, int length, int block, int size, int interpolation,
                        Taps* taps) {
    const int available = (length + block - 1) / block;
    const double scale = (double)length / block / size, stretch = scale > 1 ? scale : 1;
    const double support = (interpolation == BILINEAR ? 1 : 2) * stretch;
    const size_t most = (size_t)(2 * support) + 2;
    float* table = (float*)relic_scratch(scratch, FILTER, size * (2 * most + 6) * sizeof(float));
    if (!table) return false;
    float *offset = table + size * most, *factor = offset + size;
    int32_t *rounded = (int32_t*)(factor + size), *first = rounded + size * most;
    int32_t *count = first + size, *rest = count + size, *middle = rest + size;
    int longest = 0;
    for (int i = 0; i < size; i++) {
        const double center = scale * (i + 0.5);
        const int from = (int)(center - support + 0.5), to = (int)(center + support + 0.5);
        first[i] = from > 0 ? from : 0;
        count[i] = (to < available ? to : available) - first[i];
        offset[i] = (float)(first[i] - center + 0.5);
        middle[i] = (int)center - first[i];
        factor[i] = 0;
        rest[i] = ONE[direction];
        longest = count[i] > longest ? count[i] : longest;
    }
    if (!allocate(scratch, direction, size, longest, taps)) return false;
    const float inverse = (float)(1 / stretch), one = (float)ONE[direction];
    (interpolation == BILINEAR ? weigh_taps<true> : weigh_taps<false>)(longest, size, inverse, offset, count, table, factor);
    for (int i = 0; i < size; i++) factor[i] = one / factor[i];
    round_taps(longest, size, table, factor, rounded, rest);
    for (int i = 0; i < size; i++) {
        const int nearest = middle[i] < count[i] ? middle[i] : count[i] - 1;
        rounded[(size_t)nearest * size + i] += rest[i];
        taps->first[i] = first[i];
    }
    for (int t = 0; t < taps->count; t++)
        for (int i = 0; i < size; i++)
            set_weight(*taps, direction, i, t, t < longest ? rounded[(size_t)t * size + i] : 0);
    return true;
}

// Linear interpolation at start, start + step, ..., held inside the grid: masks and plates.
inline bool sample_taps(Scratch* scratch, Direction direction, double start, double step, int grid, int size, Taps* taps) {
    if (!allocate(scratch, direction, size, 2, taps)) return false;
    for (int i = 0; i < size; i++) {
        double position = start + step * i;
        position = position > 0 ? position : 0;
        position = position < grid - 1 ? position : grid - 1;
        taps->first[i] = (int)position;
        const int32_t second = (int32_t)__builtin_rintf((float)(position - taps->first[i]) * (float)ONE[direction]);
        set_weight(*taps, direction, i, 0, ONE[direction] - second);
        set_weight(*taps, direction, i, 1, second);
    }
    return true;
}

}  // namespace
