// Averages blocks of a very large window before the resize, whose fixed-point weights would vanish among thousands of
// taps. What remains to the filter is a factor of 128 to 256, beside which the blocks are too small to be seen; windows
// of less than 256 times the view's side are not touched.
#pragma once
#include <string.h>

#include "engine.h"

namespace {

struct Window {  // part of a picture
    Picture picture;
    int top, left, height, width;
};

inline int block_of(int length, int size) {
    const int block = length / (128 * size);
    return block < 2 ? 1 : block;
}

// Replaces the window by a picture of rounded means of blocks of down x across pixels; the last ones may be smaller.
inline bool reduce(Scratch* scratch, Window* window, int down, int across) {
    if (down == 1 && across == 1) return true;
    const int height = (window->height + down - 1) / down, width = (window->width + across - 1) / across;
    uint8_t* out = (uint8_t*)relic_scratch(scratch, REDUCED, (size_t)height * width * 3);
    uint32_t* sums = (uint32_t*)relic_scratch(scratch, BLOCK_SUMS, (size_t)width * 3 * sizeof(uint32_t));
    if (!out || !sums) return false;
    for (int y = 0; y < height; y++) {
        const int first = y * down, rows = window->height - first < down ? window->height - first : down;
        memset(sums, 0, (size_t)width * 3 * sizeof(uint32_t));
        for (int row = 0; row < rows; row++) {
            const uint8_t* in = window->picture.pixels +
                                ((ptrdiff_t)(window->top + first + row) * window->picture.width + window->left) * 3;
            for (int x = 0; x < window->width; x++)
                for (int c = 0; c < 3; c++) sums[x / across * 3 + c] += in[3 * x + c];
        }
        for (int x = 0; x < width; x++) {
            const int columns = window->width - x * across < across ? window->width - x * across : across;
            const uint32_t pixels = (uint32_t)rows * columns;
            for (int c = 0; c < 3; c++)
                out[((size_t)y * width + x) * 3 + c] = (uint8_t)((sums[3 * x + c] + pixels / 2) / pixels);
        }
    }
    *window = {{out, height, width}, 0, 0, height, width};
    return true;
}

}  // namespace
