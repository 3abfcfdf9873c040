// One sample to memory, as float32 or bfloat16.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

inline void put(float* out, float value) { *out = value; }
inline void put(uint16_t* out, float value) {  // bfloat16: round to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *out = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace
