/* Structs that Python mirrors with ctypes. Each is a list of its fields, F(type, name) for one, from which C makes both
 * the struct and what `mirrored` says of it, so that the two cannot differ; native/mirror.py compares. */

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MIRROR_MEMBER(type, name) type name;
#define MIRRORED(Struct, FIELDS) typedef struct Struct { FIELDS(MIRROR_MEMBER) } Struct

/* What a field holds: an integer or a float of some width (which `mirrored` says itself), a pointer to numbers with their
 * kind and bytes, or p for other pointers, arrays and structs. */
#define MIRROR_TO(type, kind) type *: kind, const type *: kind
#define MIRROR_KIND(value)                                                                                                 \
    _Generic((value), int8_t: "i", uint8_t: "u", int16_t: "i", uint16_t: "u", int32_t: "i", uint32_t: "u", int64_t: "i",   \
             uint64_t: "u", float: "f", double: "f", MIRROR_TO(int8_t, "pi1"), MIRROR_TO(uint8_t, "pu1"),                  \
             MIRROR_TO(int16_t, "pi2"), MIRROR_TO(uint16_t, "pu2"), MIRROR_TO(int32_t, "pi4"),                             \
             MIRROR_TO(uint32_t, "pu4"), MIRROR_TO(int64_t, "pi8"), MIRROR_TO(uint64_t, "pu8"),                            \
             MIRROR_TO(float, "pf4"), MIRROR_TO(double, "pf8"), default: "p")

#define MIRROR_SAY(...) at += snprintf(to ? to + at : to, to ? (size_t)(size - at) : 0, __VA_ARGS__)
#define MIRROR_FIELD(type, name)                                                                                           \
    MIRROR_SAY(" %s:%zu:%zu:%s", #name, offsetof(Self, name), sizeof(((Self *)0)->name), MIRROR_KIND(((Self *)0)->name));
#define MIRROR_STRUCT(Struct, FIELDS)                                                                                      \
    do {                                                                                                                   \
        typedef Struct Self;                                                                                               \
        MIRROR_SAY("%s %zu", #Struct, sizeof(Self));                                                                       \
        FIELDS(MIRROR_FIELD)                                                                                               \
        MIRROR_SAY("\n");                                                                                                  \
    } while (0)

/* Defines `mirrored`, which writes a line for each struct, `name size field:offset:bytes:kind ...`, and returns how many
 * bytes that takes; with a null target, it only counts them. */
#define MIRRORS(STRUCTS)                                                                                                   \
    int64_t mirrored(char *to, int64_t size) {                                                                             \
        int64_t at = 0;                                                                                                    \
        STRUCTS;                                                                                                           \
        return at;                                                                                                         \
    }
