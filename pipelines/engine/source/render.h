// All views of one image. Included once per build, after the vector's operations.
//
//   uint8 rows -> vertical pass -> [x][channel][y] -> horizontal pass -> uint8 -> background -> colour -> blur ->
//   solarize -> uint8 -> rows of the view
//
// From the transposition on, pixels stand as columns: plane[3 x + channel][y]. So the horizontal pass, every colour
// operation and both directions of the blur run along contiguous y without gathers, and flipping is a choice of column.
// Everything is integer arithmetic, or single IEEE float operations: every build gives the same bytes.
#pragma once
#include <time.h>

#include "resample.h"
#include "color.h"
#include "blur.h"

namespace {

inline double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

struct Clock {  // charges the time since the last charge to a stage
    double *seconds, last;
    explicit Clock(double* seconds) : seconds(seconds), last(seconds ? now() : 0) {}
    void charge(Stage stage) {
        if (!seconds) return;
        double t = now();
        seconds[stage] += t - last;
        last = t;
    }
    void skip() { last = seconds ? now() : 0; }
};

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

inline void put(float* out, float value) { *out = value; }
inline void put(uint16_t* out, float value) {  // bfloat16: round to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *out = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
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

// Grey levels times 2^4 to grey levels, halves to even: one value in 16 is a half, and rounding those up would brighten
// all views by 1/32 grey level.
inline V to_grey(V v) {
    V odd = sub(right<4>(v), left<1>(right<5>(v)));
    return right<4>(add(v, add(odd, fill(7))));
}

// How much of the view is salient: plane[x][y], 1 = 2^15 - 1. `mask` holds 0 and 128.
inline bool draw_cover(Scratch* scratch, const View& view, Picture image, Picture mask, int stride, int16_t* cover) {
    const Row& row = *view.row;
    const double down = (double)mask.height / image.height, across = (double)mask.width / image.width;
    const double step_y = row.height * down / view.size, step_x = row.width * across / view.size;
    Taps vertical, horizontal;
    if (!sample_taps(scratch, DOWN, row.top * down + 0.5 * step_y - 0.5, step_y, mask.height, view.size,
                     &vertical) ||
        !sample_taps(scratch, ACROSS, row.left * across + 0.5 * step_x - 0.5, step_x, mask.width, view.size,
                     &horizontal))
        return false;
    Window whole = {mask, 0, 0, mask.height, mask.width};
    return resample<1>(scratch, whole, vertical, horizontal, view.size, row.flip, nullptr, [=](int x, int y, V* p, int) {
        V twice = add_saturated(p[0], p[0]);  // 128 * 2^6 is a quarter of one
        store(cover + (ptrdiff_t)x * stride + y, larger(add_saturated(twice, twice), fill(0)));
    });
}

// The plate stretched over the view: plane[3 x + c][y], grey levels times 2^4.
inline bool draw_plate(Scratch* scratch, const View& view, int stride, int16_t* plane) {
    const Picture& plate = view.plate;
    const double step_y = (double)plate.height / view.size, step_x = (double)plate.width / view.size;
    Taps vertical, horizontal;
    if (!sample_taps(scratch, DOWN, 0.5 * step_y - 0.5, step_y, plate.height, view.size,
                     &vertical) ||
        !sample_taps(scratch, ACROSS, 0.5 * step_x - 0.5, step_x, plate.width, view.size,
                     &horizontal))
        return false;
    Window whole = {plate, 0, 0, plate.height, plate.width};
    return resample<3>(scratch, whole, vertical, horizontal, view.size, false, nullptr, [=](int x, int y, V* p, int) {
        for (int c = 0; c < 3; c++)
            store(plane + (ptrdiff_t)(3 * x + c) * stride + y, right<2>(add(p[c], fill(2))));
    });
}

inline bool render_view(Scratch* scratch, Picture image, const View& view, const Settings& settings, Picture mask,
                        double* seconds) {
    const Row& row = *view.row;
    const int size = view.size, stride = (size + 31) / 32 * 32, length = 3 * size;
    const size_t samples = (size_t)(length + 16) * stride;
    uint8_t* bytes = (uint8_t*)relic_scratch(scratch, BYTES, samples);
    int16_t* plane = (int16_t*)relic_scratch(scratch, PLANE, (samples + 3 * (stride + 2 * LONGEST_REACH)) * sizeof(int16_t));
    if (!bytes || !plane) return false;
    Clock clock(seconds);

    const bool covered = mask.pixels && row.background != KEEP, swapped = covered && view.plate.pixels;
    int16_t *cover = nullptr, *plate = nullptr;
    if (covered) {
        cover = (int16_t*)relic_scratch(scratch, COVER, samples * sizeof(int16_t));
        if (!cover || !draw_cover(scratch, view, image, mask, stride, cover)) return false;
    }
    if (swapped) {
        plate = (int16_t*)relic_scratch(scratch, PLATE, samples * sizeof(int16_t));
        if (!plate || !draw_plate(scratch, view, stride, plate)) return false;
    }
    clock.charge(COLOR);

    Colors colors = colors_of(row, settings);
    const Kernel kernel = kernel_of(settings.photometric ? row.blur_sigma : 0, size);
    const bool blurred = kernel.reach > 0, solarized = settings.photometric && row.solarize;
    const bool plain = !covered && !colors.count && !blurred && !solarized, whole = colors.split == colors.count;
    const V behind[3] = {fill(settings.fill[0] << 4), fill(settings.fill[1] << 4), fill(settings.fill[2] << 4)};
    Taps vertical, horizontal;
    const int down = block_of(row.height, size), across = block_of(row.width, size);
    Window window = {image, row.top, row.left, row.height, row.width};
    if (!reduce(scratch, &window, down, across) ||
        !resize_taps(scratch, DOWN, row.height, down, size, settings.interpolation, &vertical) ||
        !resize_taps(scratch, ACROSS, row.width, across, size, settings.interpolation, &horizontal))
        return false;
    clock.charge(TAPS);

    auto finish = [=](int x, int y, const V* p) {
        for (int c = 0; c < 3; c++) {
            const ptrdiff_t at = (ptrdiff_t)(3 * x + c) * stride + y;
            V v = p[c];
            if (blurred) {
                store(plane + at, left<2>(v));
                continue;
            }
            if (solarized) v = smaller(v, sub(fill(FULL), v));  // the branches meet at one half
            store_bytes(bytes + at, to_grey(v));
        }
    };
    Totals totals;
    totals.clear();
    bool done = resample<3>(scratch, window, vertical, horizontal, size, row.flip, seconds, [&](int x, int y, V* p, int valid) {
        for (int c = 0; c < 3; c++) p[c] = right<6>(add(p[c], fill(ROUND_6)));
        if (plain) {
            for (int c = 0; c < 3; c++) store_bytes(bytes + (ptrdiff_t)(3 * x + c) * stride + y, p[c]);
            return;
        }
        for (int c = 0; c < 3; c++) p[c] = clamp(left<4>(p[c]));
        if (covered) {
            V share = load(cover + (ptrdiff_t)x * stride + y);
            for (int c = 0; c < 3; c++) {
                V back = swapped ? load(plate + (ptrdiff_t)(3 * x + c) * stride + y) : behind[c];
                p[c] = add(back, multiply(sub(p[c], back), share));
            }
        }
        apply(colors, 0, colors.split, p);
        if (whole) return finish(x, y, p);
        for (int c = 0; c < 3; c++) {
            store(plane + (ptrdiff_t)(3 * x + c) * stride + y, p[c]);
            totals.add(c, valid < W ? choose(first_lanes(valid), p[c], fill(0)) : p[c]);
        }
    });
    if (!done) return false;
    clock.skip();

    if (!whole) {
        set_means(&colors, row, totals, (int64_t)size * size);
        for (int x = 0; x < size; x++)
            for (int y = 0; y < stride; y += W) {
                V p[3];
                for (int c = 0; c < 3; c++) p[c] = load(plane + (ptrdiff_t)(3 * x + c) * stride + y);
                apply(colors, colors.split, colors.count, p);
                finish(x, y, p);
            }
    }
    clock.charge(COLOR);

    if (blurred) {
        blur(plane, size, stride, kernel, plane + samples, [=](int at, int y, V v) {
            if (solarized) v = smaller(v, sub(fill(255 << 6), v));
            store_bytes(bytes + (ptrdiff_t)at * stride + y, right<6>(add(v, fill(ROUND_6))));
        });
        clock.charge(BLUR);
    }
    if (!write_rows(scratch, bytes, stride, view, settings)) return false;
    clock.charge(WRITE);
    return true;
}

inline int render(Scratch* scratch, Picture image, const View* views, int count, const Settings* settings, Picture mask,
                  double* seconds) {
    if (mask.pixels) {
        const size_t cells = (size_t)mask.height * mask.width;
        uint8_t* levels = (uint8_t*)relic_scratch(scratch, MASK, cells);
        if (!levels) return -1;
        for (size_t i = 0; i < cells; i++) levels[i] = mask.pixels[i] ? 128 : 0;
        mask.pixels = levels;
    }
    bool done = true;
    for (int i = 0; i < count && done; i++) done = render_view(scratch, image, views[i], *settings, mask, seconds);
    end_streams();
    return done ? 0 : -1;
}

}  // namespace
