// Separable resize: vertical pass along interleaved rows, transposition, horizontal pass along contiguous y.
#pragma once
#include <string.h>

#include "clock.h"
#include "reduce.h"
#include "taps.h"

namespace {

constexpr int ROUND_6 = 1 << 5;
constexpr int TILE = 512;               // samples
constexpr int TILE_STRIDE = TILE + 32;  // not a power of two: rows must not fall on the same cache lines

// Pointers to the window's rows, then `more` that repeat the last. The vector loops read up to `padded` bytes of each;
// rows that would end beyond the picture are copied.
inline const uint8_t** window_rows(Scratch* scratch, Window window, int channels, int padded, int more) {
    const uint8_t** rows = (const uint8_t**)relic_scratch(scratch, ROW_POINTERS, (window.height + more) * sizeof(*rows));
    if (!rows) return nullptr;
    const ptrdiff_t stride = (ptrdiff_t)window.picture.width * channels;
    const uint8_t* end = window.picture.pixels + stride * window.picture.height;
    const uint8_t* row = window.picture.pixels + window.top * stride + window.left * channels;
    int safe = 0;
    for (; safe < window.height && end - row >= padded; safe++, row += stride) rows[safe] = row;
    if (safe < window.height) {
        uint8_t* copy = (uint8_t*)relic_scratch(scratch, LAST_ROWS, (size_t)(window.height - safe) * padded);
        if (!copy) return nullptr;
        for (int y = safe; y < window.height; y++, row += stride, copy += padded) {
            memcpy(copy, row, (size_t)window.width * channels);
            rows[y] = copy;
        }
    }
    for (int y = window.height; y < window.height + more; y++) rows[y] = rows[window.height - 1];
    return rows;
}

struct Ahead {  // walks over the cache lines of rows that will be needed
    const uint8_t* const *row, *const *end;
    int at;
    void fetch(int bytes) {
        __builtin_prefetch(*row + at);
        at += 64;
        if (at >= bytes) at = 0, row++;
    }
};

// Calls sink(x, y, V[CHANNELS], valid) for every output column x and block of W rows from y on, of which the first
// `valid` are real. Values are grey levels times 2^6, not yet clamped; the fixed-point weights leave an error
// below 0.05 grey levels.
template <int CHANNELS, class Sink>
inline bool resample(Scratch* scratch, Window window, const Taps& down, const Taps& across, int size, bool flip,
                     double* seconds, Sink sink) {
    const int samples = window.width * CHANNELS, padded = (samples + 2 * W - 1) / (2 * W) * (2 * W);
    const uint8_t** rows = window_rows(scratch, window, CHANNELS, padded, down.count);
    int16_t* stripe = (int16_t*)relic_scratch(scratch, STRIPE, (size_t)(padded + across.count * CHANNELS) * W * sizeof(int16_t));
    if (!rows || !stripe) return false;
    Clock clock(seconds);
    alignas(64) int16_t tile[W * TILE_STRIDE];  // stays in the first-level cache between the two directions
    for (int y = 0; y < size; y += W) {
        const int valid = size - y < W ? size - y : W;
        if (valid < W) memset(tile, 0, sizeof tile);
        for (int left = 0; left < padded; left += TILE) {
            const int end = padded - left < TILE ? padded - left : TILE;
            for (int i = 0; i < valid; i++)
                for (int at = 0; at < end; at += 2 * W)
                    weigh_rows(rows + down.first[y + i], down.weights + (y + i) * down.count, down.count / 2, left + at,
                               tile + i * TILE_STRIDE + at);
            for (int at = 0; at < end; at += 8)  // samples at to at + 7 stand where weigh_rows left them
                transpose8(tile + at / (2 * W) * (2 * W) + at / 8 % 2 * W + at % (2 * W) / 16 * 8, TILE_STRIDE,
                           stripe + (left + at) * W);
        }
        clock.charge(VERTICAL);
        // The next block's rows come from memory while this block is weighed across: a share of their lines per column.
        const int next = y + 2 * W < size ? y + 2 * W : size;
        Ahead ahead = {rows + down.first[y + valid - 1] + down.count, rows + down.first[next - 1] + down.count, 0};
        const int share = ((int)(ahead.end - ahead.row) * (samples / 64 + 1) + size - 1) / size;
        for (int x = 0; x < size; x++) {
            for (int i = 0; i < share && ahead.row < ahead.end; i++) ahead.fetch(samples);
            const int16_t* column = stripe + across.first[x] * CHANNELS * W;
            const int16_t* weights = across.weights + 2 * x * across.count;
            V sums[CHANNELS];
            for (int c = 0; c < CHANNELS; c++) sums[c] = fill(0);
            for (int t = 0; t < across.count; t++, column += CHANNELS * W) {
                V weight = fill_pair(weights + 2 * t);
                for (int c = 0; c < CHANNELS; c++) sums[c] = add(sums[c], multiply(load(column + c * W), weight));
            }
            sink(flip ? size - 1 - x : x, y, sums, valid);
        }
        clock.charge(HORIZONTAL);
    }
    return true;
}

}  // namespace
