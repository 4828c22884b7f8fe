/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages for people: one line each on standard error, "guise: ..." . Libraries use log_* for what the user must
 * know and return errors for the rest; only src/cmd/ exits.
 */
#ifndef GUISE_BASE_LOG_H
#define GUISE_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); /* default LOG_INFO */
void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_message(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_message(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_DEBUG, __VA_ARGS__)

#endif
