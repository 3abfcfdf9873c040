// BUILD_FOR("avx2") ... END_BUILD: functions in between may use these instructions.
#pragma once
#define RELIC_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BUILD_FOR(features) RELIC_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_BUILD RELIC_PRAGMA(clang attribute pop)
#else
#define BUILD_FOR(features) RELIC_PRAGMA(GCC push_options) RELIC_PRAGMA(GCC target(features))
#define END_BUILD RELIC_PRAGMA(GCC pop_options)
#endif
