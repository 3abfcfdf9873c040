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

// Keys' cubic with a = -1/2, or the triangle; 0 <= x.
inline float filter(float x, int interpolation) {
    float linear = x < 1.0f ? 1.0f - x : 0.0f;
    float inner = (1.5f * x - 2.5f) * x * x + 1.0f;
    float outer = ((2.5f - 0.5f * x) * x - 4.0f) * x + 2.0f;
    float cubic = x < 1.0f ? inner : x < 2.0f ? outer : 0.0f;
    return interpolation == BILINEAR ? linear : cubic;
}

// Antialiased resize of `length` inputs to `size` outputs: the windows and weights of torch's
// interpolate(antialias=True), rounded; what rounding leaves over goes to the tap nearest to the centre, so that a flat
// picture stays what it is.
//
// The loops run over outputs, not taps, so that they vectorise. Every float operation is IEEE's and in a fixed order:
// all builds and the numba twin compute the same weights.
inline bool resize_taps(Scratch* scratch, Direction direction, int length, int size, int interpolation, Taps* taps) {
    const double scale = (double)length / size, stretch = scale > 1 ? scale : 1;
    const double support = (interpolation == BILINEAR ? 1 : 2) * stretch;
    const int most = (int)(2 * support) + 2;
    float* table = (float*)relic_scratch(scratch, FILTER, (size_t)size * (most + 5) * sizeof(float));
    if (!table) return false;
    float *offset = table + (size_t)size * most, *factor = offset + size;
    int32_t *first = (int32_t*)(factor + size), *count = first + size, *rest = count + size;
    int longest = 0;
    for (int i = 0; i < size; i++) {
        const double center = scale * (i + 0.5);
        const int from = (int)(center - support + 0.5), to = (int)(center + support + 0.5);
        first[i] = from > 0 ? from : 0;
        count[i] = (to < length ? to : length) - first[i];
        offset[i] = (float)(first[i] - center + 0.5);
        factor[i] = 0;
        longest = count[i] > longest ? count[i] : longest;
    }
    if (!allocate(scratch, direction, size, longest, taps)) return false;
    const float inverse = (float)(1 / stretch);
    for (int t = 0; t < longest; t++)
        for (int i = 0; i < size; i++) {
            float weight = filter(__builtin_fabsf((offset[i] + t) * inverse), interpolation);
            weight = t < count[i] ? weight : 0.0f;
            table[t * size + i] = weight;
            factor[i] += weight;
        }
    for (int i = 0; i < size; i++) {
        factor[i] = (float)ONE[direction] / factor[i];
        rest[i] = ONE[direction];
    }
    int32_t* rounded = (int32_t*)table;  // in place
    for (int t = 0; t < longest; t++)
        for (int i = 0; i < size; i++) {
            int32_t q = (int32_t)__builtin_rintf(table[t * size + i] * factor[i]);
            rest[i] -= q;
            rounded[t * size + i] = q;
        }
    for (int i = 0; i < size; i++) {
        const int middle = (int)(scale * (i + 0.5)) - first[i];
        const int nearest = middle < count[i] ? middle : count[i] - 1;
        rounded[nearest * size + i] += rest[i];
        taps->first[i] = first[i];
        for (int t = 0; t < longest; t++) set_weight(*taps, direction, i, t, rounded[t * size + i]);
        if (taps->count > longest) set_weight(*taps, direction, i, longest, 0);
    }
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
