/* Text and numbers for files and lines of a program without a libc. */
#ifndef EXECDRIVERS_TEXT_H
#define EXECDRIVERS_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* All: to the given place, without a NUL; the place after it. */
static inline char *put_text(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

static inline char *put_digits(char *at, uint64_t number, int width)
{
    for (int i = width; i-- > 0; number /= 10)
        at[i] = (char)('0' + number % 10);
    return at + width;
}

static inline char *put_number(char *at, uint64_t number)
{
    int width = 1;
    for (uint64_t rest = number; rest >= 10; rest /= 10)
        width++;
    return put_digits(at, number, width);
}

/* Seconds since the epoch, with six decimals. */
static inline char *put_seconds(char *at, int64_t seconds, int64_t nanoseconds)
{
    at = put_number(at, seconds < 0 ? 0 : (uint64_t)seconds);
    *at++ = '.';
    return put_digits(at, (uint64_t)nanoseconds / 1000, 6);
}

/* 2026-11-26T01:02:03, of seconds since the epoch; years to 9999. */
static inline char *put_date(char *at, int64_t seconds)
{
    if (seconds < 0 || seconds >= 253402300800)
        seconds = 0;
    uint64_t days = (uint64_t)seconds / 86400, rest = (uint64_t)seconds % 86400;
    /* Years that begin in March have the leap day at their end; 400 of them always have 146097 days. */
    uint64_t shifted = days + 719468, era = shifted / 146097, day = shifted % 146097;
    uint64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    uint64_t of_year = day - (365 * year + year / 4 - year / 100), march = (5 * of_year + 2) / 153;
    uint64_t month = march < 10 ? march + 3 : march - 9;
    at = put_digits(at, year + era * 400 + (month <= 2), 4);
    *at++ = '-';
    at = put_digits(at, month, 2);
    *at++ = '-';
    at = put_digits(at, of_year - (153 * march + 2) / 5 + 1, 2);
    *at++ = 'T';
    at = put_digits(at, rest / 3600, 2);
    *at++ = ':';
    at = put_digits(at, rest / 60 % 60, 2);
    *at++ = ':';
    return put_digits(at, rest % 60, 2);
}

#endif
