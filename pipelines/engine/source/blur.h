// Gaussian blur of planes of int16, grey levels times 2^6: along x, then along y, column by column.
#pragma once
#include "engine.h"

namespace {

constexpr int LONGEST_REACH = 8192 / 20;  // radius of the kernel of the largest view

struct Kernel {
    int reach;
    V weights[LONGEST_REACH + 1];  // times 2^15; they sum to 2^15
};

// The official kernel has 2 (size / 20) + 1 taps. The outer ones are dropped while what is dropped stays below 0.3 % of
// the whole: all of them lie beyond 3 sigma.
inline Kernel kernel_of(double sigma, int size) {
    Kernel kernel;
    const int longest = sigma > 0 ? size / 20 : 0;
    double taps[LONGEST_REACH + 1], sum = 1;
    for (int i = 1; i <= longest; i++) {
        taps[i] = __builtin_exp(-0.5 * (i / sigma) * (i / sigma));
        sum += 2 * taps[i];
    }
    kernel.reach = longest;
    for (double dropped = 0, all = sum; kernel.reach > 0; kernel.reach--) {
        dropped += 2 * taps[kernel.reach];
        if (dropped > 0.003 * all) break;
        sum = all - dropped;
    }
    int center = 1 << 15;
    for (int i = 1; i <= kernel.reach; i++) {
        int q = (int)__builtin_rint(taps[i] / sum * (1 << 15));
        kernel.weights[i] = fill(q);
        center -= 2 * q;
    }
    kernel.weights[0] = fill(center);
    return kernel;
}

inline int reflected(int i, int size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

// Sum over i of weights[i] (minus[i] + plus[i]) at [y, y + N W), weights[0] once.
template <int N, class Sink>
inline void weigh_columns(const int16_t* const* minus, const int16_t* const* plus, const Kernel& kernel, int y, Sink sink) {
    V sums[N];
    for (int n = 0; n < N; n++) sums[n] = multiply(load(minus[0] + y + n * W), kernel.weights[0]);
    for (int i = 1; i <= kernel.reach; i++) {
        V weight = kernel.weights[i];
        for (int n = 0; n < N; n++) {
            V both = add(load(minus[i] + y + n * W), load(plus[i] + y + n * W));
            sums[n] = add(sums[n], multiply(both, weight));
        }
    }
    for (int n = 0; n < N; n++) sink(y + n * W, sums[n]);
}
template <class Sink>
inline void weigh_column(const int16_t* const* minus, const int16_t* const* plus, const Kernel& kernel, int stride, Sink sink) {
    int y = 0;
    for (; y + 4 * W <= stride; y += 4 * W) weigh_columns<4>(minus, plus, kernel, y, sink);
    for (; y < stride; y += W) weigh_columns<1>(minus, plus, kernel, y, sink);
}

// Values that `columns` below must hold.
inline size_t blur_room(int stride) { return 3 * (size_t)(stride + 2 * LONGEST_REACH); }

// plane: [3 size][stride], column 3 x + c. Calls sink(x, c, y, V) with blurred values.
template <class Sink>
inline void blur(const int16_t* plane, int size, int stride, const Kernel& kernel, int16_t* columns, Sink sink) {
    const int16_t *minus[LONGEST_REACH + 1], *plus[LONGEST_REACH + 1];
    const int room = stride + 2 * LONGEST_REACH;
    for (int x = 0; x < size; x++) {
        // One direction after the other for all three channels: a column is not read while it is still being stored.
        for (int c = 0; c < 3; c++) {
            int16_t* column = columns + c * room + LONGEST_REACH;
            for (int i = 0; i <= kernel.reach; i++) {
                minus[i] = plane + (ptrdiff_t)(3 * reflected(x - i, size) + c) * stride;
                plus[i] = plane + (ptrdiff_t)(3 * reflected(x + i, size) + c) * stride;
            }
            weigh_column(minus, plus, kernel, stride, [=](int y, V sum) { store(column + y, sum); });
            for (int i = 1; i <= kernel.reach; i++) {
                column[-i] = column[i];
                column[size - 1 + i] = column[size - 1 - i];
            }
        }
        for (int c = 0; c < 3; c++) {
            const int16_t* column = columns + c * room + LONGEST_REACH;
            for (int i = 0; i <= kernel.reach; i++) {
                minus[i] = column - i;
                plus[i] = column + i;
            }
            weigh_column(minus, plus, kernel, stride, [=](int y, V sum) { sink(x, c, y, sum); });
        }
    }
}

}  // namespace
