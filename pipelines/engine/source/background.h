// Background removal and swap: what stands behind the salient object, and how much of it is seen.
#pragma once
#include "resample.h"

namespace {

// Draws how much of the view is salient: cover[x][y], 1 = 2^15 - 1. `mask` holds 0 and 128.
inline bool draw_cover(Scratch* scratch, const View& view, Picture image, Picture mask, int stride, int16_t* cover) {
    const Row& row = *view.row;
    const double down = (double)mask.height / image.height, across = (double)mask.width / image.width;
    const double step_y = row.height * down / view.size, step_x = row.width * across / view.size;
    Taps vertical, horizontal;
    if (!sample_taps(scratch, DOWN, row.top * down + 0.5 * step_y - 0.5, step_y, mask.height, view.size, &vertical) ||
        !sample_taps(scratch, ACROSS, row.left * across + 0.5 * step_x - 0.5, step_x, mask.width, view.size, &horizontal))
        return false;
    Window whole = {mask, 0, 0, mask.height, mask.width};
    return resample<1>(scratch, whole, vertical, horizontal, view.size, row.flip, nullptr, [=](int x, int y, V* p, int) {
        V twice = add_saturated(p[0], p[0]);  // 128 * 2^6 is a quarter of one
        store(cover + (ptrdiff_t)x * stride + y, larger(add_saturated(twice, twice), fill(0)));
    });
}

// Stretches the plate over the view: plane[3 x + c][y], grey levels times 2^4.
inline bool draw_plate(Scratch* scratch, const View& view, int stride, int16_t* plane) {
    const Picture& plate = view.plate;
    const double step_y = (double)plate.height / view.size, step_x = (double)plate.width / view.size;
    Taps vertical, horizontal;
    if (!sample_taps(scratch, DOWN, 0.5 * step_y - 0.5, step_y, plate.height, view.size, &vertical) ||
        !sample_taps(scratch, ACROSS, 0.5 * step_x - 0.5, step_x, plate.width, view.size, &horizontal))
        return false;
    Window whole = {plate, 0, 0, plate.height, plate.width};
    return resample<3>(scratch, whole, vertical, horizontal, view.size, false, nullptr, [=](int x, int y, V* p, int) {
        for (int c = 0; c < 3; c++)
            store(plane + (ptrdiff_t)(3 * x + c) * stride + y, right<2>(add(p[c], fill(2))));
    });
}

struct Background {
    const int16_t *cover, *plate;  // null: the background is kept; null: the constant fill
    V fill[3];
    int stride;

    // Blends W pixels of column x from y on; grey levels times 2^4.
    void blend(int x, int y, V* p) const {
        const V share = load(cover + (ptrdiff_t)x * stride + y);
        for (int c = 0; c < 3; c++) {
            const V behind = plate ? load(plate + (ptrdiff_t)(3 * x + c) * stride + y) : fill[c];
            p[c] = add(behind, multiply(sub(p[c], behind), share));
        }
    }
};

// Draws what the row needs; `samples` is the room of a plane.
inline bool background_of(Scratch* scratch, const View& view, Picture image, Picture mask, const Settings& settings,
                          int stride, size_t samples, Background* background) {
    background->cover = background->plate = nullptr;
    background->stride = stride;
    if (!mask.pixels || view.row->background == KEEP) return true;
    int16_t* cover = (int16_t*)relic_scratch(scratch, COVER, samples * sizeof(int16_t));
    if (!cover || !draw_cover(scratch, view, image, mask, stride, cover)) return false;
    background->cover = cover;
    for (int c = 0; c < 3; c++) background->fill[c] = fill(settings.fill[c] << 4);
    if (!view.plate.pixels) return true;
    int16_t* plate = (int16_t*)relic_scratch(scratch, PLATE, samples * sizeof(int16_t));
    if (!plate || !draw_plate(scratch, view, stride, plate)) return false;
    background->plate = plate;
    return true;
}

}  // namespace
