// What the Python module and the three builds of the renderer (AVX-512, AVX2, portable) share.
//
// The builds include this file under different target options, so it holds no function with external linkage: a
// linker keeps one copy of such a function, and an AVX-512 copy would crash on a machine without it.
#pragma once
#include <stddef.h>
#include <stdint.h>

// One view of one image: pipelines.views.ROW, whose offsets the Python side checks against `row_layout`.
struct Row {
    int32_t top, left, height, width;
    uint8_t flip, order;
    float brightness, contrast, saturation, hue;
    uint8_t gray;
    float blur_sigma;
    uint8_t solarize, background;
    uint32_t plate;
};

enum Interpolation { BICUBIC = 0, BILINEAR = 1 };
enum Jitter { RELICV2 = 0, TORCHVISION = 1 };
enum Output { UINT8 = 0, BFLOAT16 = 1, FLOAT32 = 2 };
enum Background { KEEP = 0, REMOVE = 1, SWAP = 2 };
enum JitterOperation { BRIGHTNESS = 0, CONTRAST = 1, SATURATION = 2, HUE = 3 };

// What is the same for all views of a loader: pipelines.engine.settings.SETTINGS.
struct Settings {
    int32_t interpolation, jitter, photometric, output;
    int32_t fill[3];
    uint8_t orders[24][4];     // pipelines.views.JITTER_ORDERS
    float scale[3], shift[3];  // normalised output = uint8 * scale + shift
};

struct Picture {  // uint8 [height, width, channels], rows contiguous
    const uint8_t* pixels;
    int32_t height, width;
};

struct View {
    const Row* row;
    void* output;  // [size, size, 3], contiguous
    int32_t size;
    Picture plate;  // pixels is null where the row does not swap
};

enum Stage { TAPS, VERTICAL, HORIZONTAL, COLOR, BLUR, WRITE, STAGES };

// Memory of one thread, kept between images; nothing is allocated per view once the largest view has been seen.
struct Buffer {
    void* memory;
    size_t bytes;
};
enum Use {
    VERTICAL_TAPS,
    HORIZONTAL_TAPS,
    FILTER,
    REDUCED,
    BLOCK_SUMS,
    ROW_POINTERS,
    LAST_ROWS,
    STRIPE,
    PLANE,
    BYTES,
    LINES,
    COVER,
    PLATE,
    MASK,
    USES
};
struct Scratch {
    Buffer buffers[USES];
};
extern "C" void* relic_scratch(Scratch* scratch, int use, size_t bytes);  // 64-byte aligned; null when out of memory

// Renders all views of an image. Returns 0, or -1 when memory ran out. `seconds` [STAGES] may be null.
typedef int Render(Scratch*, Picture image, const View* views, int count, const Settings*, Picture mask, double* seconds);
extern "C" Render relic_render_avx512, relic_render_avx2, relic_render_portable;
