#include "target.h"
BUILD_FOR("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "simd_avx512.h"
#include "render.h"

extern "C" int relic_render_avx512(Scratch* scratch, Picture image, const View* views, int count,
                                   const Settings* settings, Picture mask, double* seconds) {
    return render(scratch, image, views, count, settings, mask, seconds);
}
END_BUILD
