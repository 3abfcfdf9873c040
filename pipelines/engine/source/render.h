// All views of one image. Included once per build, after the vector's operations.
//
//   uint8 rows -> vertical pass -> [x][channel][y] -> horizontal pass -> uint8 -> background -> colour -> blur ->
//   solarize -> uint8 -> rows of the view
//
// From the transposition on, pixels stand as columns: plane[3 x + channel][y]. So the horizontal pass, every colour
// operation and both directions of the blur run along contiguous y without gathers, and flipping is a choice of column.
// Everything is integer arithmetic, or single IEEE float operations: every build gives the same bytes.
#pragma once
#include "background.h"
#include "blur.h"
#include "clock.h"
#include "color.h"
#include "resample.h"
#include "write.h"

namespace {

// The columns of a view: `plane` while it is coloured and blurred, `bytes` when it is done.
struct Canvas {
    int size, stride;
    size_t samples;  // room of either; the plane has some more behind it for the blur
    int16_t* plane;
    uint8_t* bytes;
    ptrdiff_t at(int x, int channel, int y) const { return (ptrdiff_t)(3 * x + channel) * stride + y; }
};

inline bool canvas_of(Scratch* scratch, int size, Canvas* canvas) {
    const int stride = (size + 31) / 32 * 32;
    canvas->size = size;
    canvas->stride = stride;
    canvas->samples = (size_t)(3 * size + 16) * stride;
    canvas->bytes = (uint8_t*)relic_scratch(scratch, BYTES, canvas->samples);
    canvas->plane = (int16_t*)relic_scratch(scratch, PLANE, (canvas->samples + blur_room(stride)) * sizeof(int16_t));
    return canvas->bytes && canvas->plane;
}

// What is left of a view once its colours are right: to `plane` for the blur, or rounded to `bytes`.
struct Finish {
    Canvas canvas;
    bool blurred, solarized;
    void operator()(int x, int y, const V* p) const {
        for (int c = 0; c < 3; c++) {
            if (blurred) {
                store(canvas.plane + canvas.at(x, c, y), left<2>(p[c]));
                continue;
            }
            const V v = solarized ? smaller(p[c], sub(fill(FULL), p[c])) : p[c];  // the branches meet at one half
            store_bytes(canvas.bytes + canvas.at(x, c, y), to_grey(v));
        }
    }
};

inline bool render_view(Scratch* scratch, Picture image, const View& view, const Settings& settings, Picture mask,
                        double* seconds) {
    const Row& row = *view.row;
    const int size = view.size;
    Canvas canvas;
    Background background;
    Clock clock(seconds);
    if (!canvas_of(scratch, size, &canvas) ||
        !background_of(scratch, view, image, mask, settings, canvas.stride, canvas.samples, &background))
        return false;
    clock.charge(COLOR);

    const int down = block_of(row.height, size), across = block_of(row.width, size);
    Window window = {image, row.top, row.left, row.height, row.width};
    Taps vertical, horizontal;
    if (!reduce(scratch, &window, down, across) ||
        !resize_taps(scratch, DOWN, row.height, down, size, settings.interpolation, &vertical) ||
        !resize_taps(scratch, ACROSS, row.width, across, size, settings.interpolation, &horizontal))
        return false;
    Colors colors = colors_of(row, settings);
    const Kernel kernel = kernel_of(settings.photometric ? row.blur_sigma : 0, size);
    const bool solarized = settings.photometric && row.solarize;
    const Finish finish = {canvas, kernel.reach > 0, solarized};
    const bool is_plain = !background.cover && !colors.count && !finish.blurred && !solarized;
    const bool needs_means = colors.split < colors.count;
    Totals totals;
    totals.clear();
    clock.charge(TAPS);

    const bool done = resample<3>(scratch, window, vertical, horizontal, size, row.flip, seconds, [&](int x, int y, V* p, int valid) {
        for (int c = 0; c < 3; c++) p[c] = right<6>(add(p[c], fill(ROUND_6)));
        if (is_plain) {
            for (int c = 0; c < 3; c++) store_bytes(canvas.bytes + canvas.at(x, c, y), p[c]);
            return;
        }
        for (int c = 0; c < 3; c++) p[c] = clamp(left<4>(p[c]));
        if (background.cover) background.blend(x, y, p);
        apply(colors, 0, colors.split, p);
        if (!needs_means) return finish(x, y, p);
        for (int c = 0; c < 3; c++) {
            store(canvas.plane + canvas.at(x, c, y), p[c]);
            totals.add(c, valid < W ? choose(first_lanes(valid), p[c], fill(0)) : p[c]);
        }
    });
    if (!done) return false;
    clock.skip();

    if (needs_means) {
        set_means(&colors, row, totals, (int64_t)size * size);
        for (int x = 0; x < size; x++)
            for (int y = 0; y < canvas.stride; y += W) {
                V p[3];
                for (int c = 0; c < 3; c++) p[c] = load(canvas.plane + canvas.at(x, c, y));
                apply(colors, colors.split, colors.count, p);
                finish(x, y, p);
            }
    }
    clock.charge(COLOR);

    if (finish.blurred)
        blur(canvas.plane, size, canvas.stride, kernel, canvas.plane + canvas.samples, [&](int x, int c, int y, V v) {
            if (solarized) v = smaller(v, sub(fill(255 << 6), v));
            store_bytes(canvas.bytes + canvas.at(x, c, y), right<6>(add(v, fill(ROUND_6))));
        });
    clock.charge(BLUR);
    if (!write_rows(scratch, canvas.bytes, canvas.stride, view, settings)) return false;
    clock.charge(WRITE);
    return true;
}

// Renders the views one after the other; see `Render` in engine.h.
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
