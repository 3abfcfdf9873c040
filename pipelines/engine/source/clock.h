// Where the time goes, for those who ask.
#pragma once
#include <time.h>

#include "engine.h"

namespace {

inline double now() {  // seconds
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Charges the time since the last charge to a stage; does nothing without a place for the seconds.
struct Clock {
    double *seconds, last;
    explicit Clock(double* seconds) : seconds(seconds) { skip(); }
    void charge(Stage stage) {
        if (!seconds) return;
        const double t = now();
        seconds[stage] += t - last;
        last = t;
    }
    void skip() { last = seconds ? now() : 0; }
};

}  // namespace
