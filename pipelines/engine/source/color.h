// Colour operations on W pixels: red, green and blue in vectors of int16, grey levels times 2^4 (0..4080).
//
// Four fractional bits are what hue leaves room for: it works with up to six times the chroma, 6 * 4080 = 24480.
#pragma once
#include "engine.h"

namespace {

constexpr int FULL = 255 << 4;

inline V clamp(V a) { return smaller(larger(a, fill(0)), fill(FULL)); }

// Grey levels times 2^4 to grey levels, halves to even: one value in 16 is a half, and rounding those up would brighten
// all views by 1/32 grey level.
inline V to_grey(V v) {
    V odd = sub(right<4>(v), left<1>(right<5>(v)));
    return right<4>(add(v, add(odd, fill(7))));
}

// a factor, for |factor| < 8: factor 2^(15 - shift) as int16, after a shift of `a` that leaves it in int16.
struct Scale {
    V factor;
    int shift;
};
inline Scale scale_of(double factor) {
    double size = __builtin_fabs(factor);
    int shift = size < 2 ? 1 : size < 4 ? 2 : 3;
    double q = __builtin_rint(factor * (1 << (15 - shift)));
    return {fill((int)(q > INT16_MAX ? INT16_MAX : q < -INT16_MAX ? -INT16_MAX : q)), shift};
}
inline V scaled(V a, const Scale& scale) { return multiply(left_by(a, scale.shift), scale.factor); }

// .2989 r + .5870 g + .1140 b, with seven fractional bits until the last rounding.
inline V luma(const V* p) {
    V sum = add(multiply(left<3>(p[0]), fill(9794)), multiply(left<3>(p[1]), fill(19235)));
    return right<3>(add(add(sum, multiply(left<3>(p[2]), fill(3736))), fill(4)));
}

inline V value_of(const V* p) { return larger(larger(p[0], p[1]), p[2]); }
inline V least_of(const V* p) { return smaller(smaller(p[0], p[1]), p[2]); }

// Saturation in HSV. With V = max, C = V - min, S = C / V and S' = min(f S, 1): c' = V - (V - c) S'/S, where
// S'/S = min(f, V / C). Division is needed only where f C > V, and only for f > 1.
inline void saturate(V* p, const Scale& scale, bool may_exceed) {
    V value = value_of(p), chroma = sub(value, least_of(p));
    Mask full = greater(scaled(chroma, scale), value);
    bool divide = may_exceed && any(full);
    for (int c = 0; c < 3; c++) {
        V distance = sub(value, p[c]), moved = scaled(distance, scale);
        if (divide) moved = choose(full, quotient(distance, value, larger(chroma, fill(1))), moved);
        p[c] = clamp(sub(value, moved));
    }
}

// Hue without division. In sixths of a turn, channel c of HSV is V - C clamp(2 - d, 0, 1), d the distance on the circle
// of six between hue + shift and the channel's opposite colour. All is kept times C: H = C hue is a difference of two
// channels, shifted by 2 C.
struct Hue {
    V turns[3];  // per channel, in [-3, 3) sixths, times 2^13
};
inline Hue hue_of(double turns) {
    Hue hue;
    for (int c = 0; c < 3; c++) {
        double sixths = 3 - 2 * c + 6 * turns;              // n - 2 for n = 5, 3, 1
        sixths -= 6 * __builtin_floor((sixths + 3) / 6);    // to [-3, 3)
        hue.turns[c] = fill((int)__builtin_rint(sixths * 8192));
    }
    return hue;
}
inline void rotate(V* p, const Hue& hue) {
    V value = value_of(p), chroma = sub(value, least_of(p));
    V twice = add(chroma, chroma), six = add(twice, left<2>(chroma));
    V position = sub(sub(p[0], p[1]), twice);                                                 // blue is largest
    position = choose(equal(value, p[1]), add(sub(p[2], p[0]), twice), position);             // green
    position = choose(equal(value, p[0]), sub(p[1], p[2]), position);                         // red
    V quarter = left<2>(chroma);
    for (int c = 0; c < 3; c++) {
        V distance = absolute(add(position, multiply(quarter, hue.turns[c])));
        distance = smaller(distance, sub(six, distance));
        p[c] = sub(value, smaller(larger(sub(twice, distance), fill(0)), chroma));
    }
}

enum Step { STEP_BRIGHTNESS, STEP_CONTRAST, STEP_SATURATION, STEP_HUE, STEP_GRAY };

struct Colors {
    int steps[5], count;
    int split;  // steps from here on need the view's means: contrast and what follows it
    bool official, may_exceed;
    V brightness, offsets[3];
    Scale brighten, contrast, saturation;
    Hue hue;
};

inline Colors colors_of(const Row& row, const Settings& settings) {
    Colors colors;
    colors.count = 0;
    colors.official = settings.jitter == RELICV2;
    colors.may_exceed = row.saturation > 1;
    const bool on[4] = {row.brightness != (colors.official ? 0.0f : 1.0f), row.contrast != 1, row.saturation != 1,
                        row.hue != 0};
    if (settings.photometric)
        for (int i = 0; i < 4; i++) {
            int operation = settings.orders[row.order][i];
            if (on[operation]) colors.steps[colors.count++] = operation;
        }
    if (settings.photometric && row.gray) colors.steps[colors.count++] = STEP_GRAY;
    colors.split = 0;
    while (colors.split < colors.count && colors.steps[colors.split] != STEP_CONTRAST) colors.split++;
    colors.brightness = fill((int)__builtin_rint((double)row.brightness * FULL));
    colors.brighten = scale_of(row.brightness);
    colors.contrast = scale_of(row.contrast);
    colors.saturation = scale_of(colors.official && row.saturation < 0 ? 0 : row.saturation);  // S' is clamped to [0, 1]
    colors.hue = hue_of(row.hue);
    return colors;
}

// Exact sums of the three channels. A lane of `Sums` gains at most 2 * 4080 each time, so its 32 bits are emptied often.
struct Totals {
    Sums sums[3];
    int64_t flushed[3];
    int adds;
    void clear() {
        for (int c = 0; c < 3; c++) {
            sums[c] = no_sums();
            flushed[c] = 0;
        }
        adds = 0;
    }
    void add(int channel, V values) {
        sums[channel] = add_pairs(sums[channel], values);
        if (++adds == 1 << 17) flush();
    }
    void flush() {
        for (int c = 0; c < 3; c++) {
            flushed[c] += total(sums[c]);
            sums[c] = no_sums();
        }
        adds = 0;
    }
};

// c' = f c + (1 - f) mean; the means are of each channel (official), or all of the mean luma (torchvision).
inline void set_means(Colors* colors, const Row& row, Totals& totals, int64_t pixels) {
    totals.flush();
    double means[3];
    for (int c = 0; c < 3; c++) means[c] = (double)totals.flushed[c] / (double)pixels;
    double gray = 0.2989 * means[0] + 0.5870 * means[1] + 0.1140 * means[2];
    for (int c = 0; c < 3; c++) {
        double mean = colors->official ? means[c] : gray;
        colors->offsets[c] = fill((int)__builtin_rint((1 - (double)row.contrast) * mean));
    }
}

inline void apply(const Colors& colors, int from, int to, V* p) {
    for (int i = from; i < to; i++) switch (colors.steps[i]) {
            case STEP_BRIGHTNESS:
                for (int c = 0; c < 3; c++)
                    p[c] = clamp(colors.official ? add(p[c], colors.brightness) : scaled(p[c], colors.brighten));
                break;
            case STEP_CONTRAST:
                for (int c = 0; c < 3; c++)
                    p[c] = clamp(add_saturated(scaled(p[c], colors.contrast), colors.offsets[c]));
                break;
            case STEP_SATURATION:
                if (colors.official) {
                    saturate(p, colors.saturation, colors.may_exceed);
                } else {
                    V gray = luma(p);
                    for (int c = 0; c < 3; c++)
                        p[c] = clamp(add_saturated(scaled(sub(p[c], gray), colors.saturation), gray));
                }
                break;
            case STEP_HUE:
                rotate(p, colors.hue);
                break;
            default:
                p[0] = p[1] = p[2] = luma(p);
        }
}

}  // namespace
