// The Python module `pipelines.engine.native`: checks the buffers, picks the build for this processor, lets the GIL go.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "engine.h"

static_assert(sizeof(Row) == 52, "pipelines.views.ROW is packed by numpy as C would");
static_assert(sizeof(Settings) == 148, "pipelines.engine.settings.SETTINGS is packed by numpy as C would");

namespace {

struct ThreadScratch : Scratch {
    ThreadScratch() : Scratch() {}
    ~ThreadScratch() {
        for (Buffer& buffer : buffers) free(buffer.memory);
    }
};
thread_local ThreadScratch thread_scratch;

struct Build {
    const char* name;
    Render* render;
};

// Builds that this processor can run, fastest first; ends with a null name.
const Build* builds() {
    static Build list[4];
    if (list[0].name) return list;
    Build found[4] = {};
    int count = 0;
#ifdef RELIC_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        found[count++] = {"avx512", relic_render_avx512};
    if (__builtin_cpu_supports("avx2")) found[count++] = {"avx2", relic_render_avx2};
#endif
    found[count++] = {"portable", relic_render_portable};
    for (int i = count; i-- > 0;) list[i] = found[i];  // the first entry last: it is what says that the list is there
    return list;
}

PyObject* available(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
    for (const Build* build = builds(); names && build->name; build++) {
        PyObject* name = PyUnicode_FromString(build->name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

PyObject* row_layout(PyObject*, PyObject*) {
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n}", "top", offsetof(Row, top), "left",
                         offsetof(Row, left), "height", offsetof(Row, height), "width", offsetof(Row, width), "flip",
                         offsetof(Row, flip), "order", offsetof(Row, order), "brightness", offsetof(Row, brightness),
                         "contrast", offsetof(Row, contrast), "saturation", offsetof(Row, saturation), "hue",
                         offsetof(Row, hue), "gray", offsetof(Row, gray), "blur_sigma", offsetof(Row, blur_sigma),
                         "solarize", offsetof(Row, solarize), "background", offsetof(Row, background), "plate",
                         offsetof(Row, plate));
}

// A contiguous buffer held for the length of a call.
struct Held {
    Py_buffer view{};
    bool held = false;
    bool take(PyObject* object, int flags = 0) {
        return held = PyObject_GetBuffer(object, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) == 0;
    }
    ~Held() {
        if (held) PyBuffer_Release(&view);
    }
};

constexpr int WIDEST = INT32_MAX / 256;  // a row of it, times the 64 bytes of a column's block, is counted in an int

bool picture_of(const Held& held, int channels, const char* what, Picture* picture) {
    const Py_buffer& view = held.view;
    const bool bytes = view.format && (view.format[0] == 'B' || view.format[0] == '?') && !view.format[1];
    const bool shaped = bytes && (channels == 1 ? view.ndim == 2 : view.ndim == 3 && view.shape[2] == channels);
    if (!shaped || view.shape[0] < 1 || view.shape[1] < 1 || view.shape[0] > INT32_MAX || view.shape[1] > WIDEST) {
        PyErr_Format(PyExc_ValueError, "%s must be uint8 [height, width%s], neither empty nor wider than %d", what,
                     channels == 1 ? "" : ", 3", WIDEST);
        return false;
    }
    *picture = {(const uint8_t*)view.buf, (int32_t)view.shape[0], (int32_t)view.shape[1]};
    return true;
}

bool inside(const Row& row, const Picture& image) {
    return row.top >= 0 && row.left >= 0 && row.height > 0 && row.width > 0 && row.height <= image.height - row.top &&
           row.width <= image.width - row.left;
}

constexpr Py_ssize_t MOST_VIEWS = 64;

// render(build, image, rows, outputs, settings, mask | None, plates | None, seconds | None, slot)
PyObject* render(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 9) return PyErr_Format(PyExc_TypeError, "render takes 9 arguments, got %zd", count);
    const char* name = PyUnicode_AsUTF8(arguments[0]);
    if (!name) return nullptr;
    const Build* build = builds();
    while (build->name && strcmp(build->name, name) != 0) build++;
    if (!build->name) return PyErr_Format(PyExc_ValueError, "no build %s for this processor", name);

    Held image_buffer, rows_buffer, settings_buffer, mask_buffer, seconds_buffer, outputs[MOST_VIEWS];
    if (!image_buffer.take(arguments[1]) || !rows_buffer.take(arguments[2]) || !settings_buffer.take(arguments[4]))
        return nullptr;
    Picture image, mask = {};
    if (!picture_of(image_buffer, 3, "the image", &image)) return nullptr;
    if (settings_buffer.view.len != sizeof(Settings))
        return PyErr_Format(PyExc_ValueError, "settings are not SETTINGS");
    const Settings* settings = (const Settings*)settings_buffer.view.buf;
    if (settings->output < UINT8 || settings->output > FLOAT32)
        return PyErr_Format(PyExc_ValueError, "settings name output %d, which is none", (int)settings->output);
    if (arguments[5] != Py_None && (!mask_buffer.take(arguments[5]) || !picture_of(mask_buffer, 1, "the mask", &mask)))
        return nullptr;
    double* seconds = nullptr;
    if (arguments[7] != Py_None) {
        if (!seconds_buffer.take(arguments[7], PyBUF_WRITABLE)) return nullptr;
        if (seconds_buffer.view.len != STAGES * sizeof(double))
            return PyErr_Format(PyExc_ValueError, "seconds must be float64 [%d]", STAGES);
        seconds = (double*)seconds_buffer.view.buf;
    }

    PyObject* list = arguments[3];
    if (!PyList_Check(list)) return PyErr_Format(PyExc_TypeError, "outputs must be a list");
    const Py_ssize_t total = PyList_GET_SIZE(list);
    if (total > MOST_VIEWS) return PyErr_Format(PyExc_ValueError, "at most %zd views per call", MOST_VIEWS);
    if (rows_buffer.view.len != total * (Py_ssize_t)sizeof(Row))
        return PyErr_Format(PyExc_ValueError, "rows must be ROW, one for each of the %zd outputs", total);
    Held plates_buffer;
    if (arguments[6] != Py_None) {
        if (!plates_buffer.take(arguments[6])) return nullptr;
        const Py_buffer& bank = plates_buffer.view;
        if (bank.ndim != 4 || bank.itemsize != 1 || bank.shape[3] != 3 || bank.len == 0 || bank.shape[2] > WIDEST ||
            bank.shape[1] > INT32_MAX)
            return PyErr_Format(PyExc_ValueError, "plates must be uint8 [P, height, width, 3], not empty");
    }
    const Py_ssize_t item_bytes[] = {1, 2, 4}, slot = PyLong_AsSsize_t(arguments[8]);
    if (slot == -1 && PyErr_Occurred()) return nullptr;
    View views[MOST_VIEWS] = {};
    for (Py_ssize_t i = 0; i < total; i++) {
        if (!outputs[i].take(PyList_GET_ITEM(list, i), PyBUF_WRITABLE)) return nullptr;
        const Py_buffer& out = outputs[i].view;
        const Py_ssize_t* shape = out.shape + (out.ndim == 4);  // of one view
        const bool square = (out.ndim == 3 || out.ndim == 4) && shape[0] == shape[1] && shape[2] == 3;
        if (!square || shape[0] < 1 || shape[0] > 8192 || out.itemsize != item_bytes[settings->output])
            return PyErr_Format(PyExc_ValueError, "output %zd must be [size, size, 3] or [N, size, size, 3] of %zd-byte items, "
                                "size 1 to 8192", i, item_bytes[settings->output]);
        if (slot < 0 || slot >= (out.ndim == 4 ? out.shape[0] : 1))
            return PyErr_Format(PyExc_ValueError, "output %zd has no slot %zd", i, slot);
        uint8_t* memory = (uint8_t*)out.buf + slot * shape[0] * shape[1] * 3 * out.itemsize;
        views[i] = {(const Row*)rows_buffer.view.buf + i, memory, (int32_t)shape[0], {}};
        if (!inside(*views[i].row, image))
            return PyErr_Format(PyExc_ValueError, "row %zd: its box leaves the image of %d x %d", i, image.height, image.width);
        if (views[i].row->order >= 24)
            return PyErr_Format(PyExc_ValueError, "row %zd: its order %d is not one of 24", i, views[i].row->order);
        if (plates_buffer.held && views[i].row->background == SWAP) {
            const Py_ssize_t* bank = plates_buffer.view.shape;
            const Py_ssize_t number = views[i].row->plate % bank[0];
            views[i].plate = {(const uint8_t*)plates_buffer.view.buf + number * bank[1] * bank[2] * 3, (int32_t)bank[1],
                              (int32_t)bank[2]};
        }
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = build->render(&thread_scratch, image, views, (int)total, settings, mask, seconds);
    Py_END_ALLOW_THREADS;
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"available", available, METH_NOARGS, "Names of the builds that this processor can run, fastest first."},
    {"row_layout", row_layout, METH_NOARGS, "Offset of every field of a row."},
    {"render", (PyCFunction)(void (*)(void))render, METH_FASTCALL,
     "render(build, image, rows, outputs, settings, mask, plates, seconds, slot): render all views of an image, without the GIL."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" void* relic_scratch(Scratch* scratch, int use, size_t bytes) {
    Buffer& buffer = scratch->buffers[use];
    if (buffer.bytes < bytes) {
        free(buffer.memory);
        buffer.bytes = (bytes + 63) / 64 * 64;
        buffer.memory = aligned_alloc(64, buffer.bytes);
        if (!buffer.memory) buffer.bytes = 0;
    }
    return buffer.memory;
}

PyMODINIT_FUNC PyInit_native() { return PyModule_Create(&module); }
