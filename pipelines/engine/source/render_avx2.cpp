#include "target.h"
BUILD_FOR("avx2")
#include "simd_avx2.h"
#include "render.h"

extern "C" int relic_render_avx2(Scratch* scratch, Picture image, const View* views, int count,
                                   const Settings* settings, Picture mask, double* seconds) {
    return render(scratch, image, views, count, settings, mask, seconds);
}
END_BUILD
