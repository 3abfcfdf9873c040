// Eight samples of W rows from row-major to column-major, after the vector's operations of a build for x86.
#pragma once

namespace {

// out[i][row] = in[row][i]. Lane j of a[i] holds eight samples of row 8 j + i; three rounds turn each lane.
inline void transpose8(const int16_t* in, ptrdiff_t stride, int16_t* out) {
    V a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = rows_of(in + i * stride, stride);
    for (int i = 0; i < 4; i++) {
        b[2 * i] = low16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = high16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            a[4 * i + 2 * j] = low32(b[4 * i + j], b[4 * i + j + 2]);
            a[4 * i + 2 * j + 1] = high32(b[4 * i + j], b[4 * i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        store(out + 2 * i * W, low64(a[i], a[i + 4]));
        store(out + (2 * i + 1) * W, high64(a[i], a[i + 4]));
    }
}

}  // namespace
