#include "simd_portable.h"
#include "render.h"

extern "C" int relic_render_portable(Scratch* scratch, Picture image, const View* views, int count,
                                     const Settings* settings, Picture mask, double* seconds) {
    return render(scratch, image, views, count, settings, mask, seconds);
}
