// Compiler attributes: printf checking and clang's lock annotations, which make a clang build with -Wthread-safety
// prove that every shared field is touched only under its lock. They expand to nothing on gcc.

#ifndef BITFLOW_BASE_COMPILER_H
#define BITFLOW_BASE_COMPILER_H

#define PRINTF_LIKE(format_at, first_at) __attribute__((format(printf, format_at, first_at)))

#if defined(__clang__)
#define THREAD_ANNOTATION(x) __attribute__((x))
#else
#define THREAD_ANNOTATION(x)
#endif

#define LOCKABLE THREAD_ANNOTATION(capability("mutex"))
// In C, clang cannot yet name a field's sibling, so a field of a struct says only that some lock must be held
// (GUARDED); the comment beside it says which. GUARDED_BY is for variables.
#define GUARDED THREAD_ANNOTATION(guarded_var)
#define GUARDED_BY(lock) THREAD_ANNOTATION(guarded_by(lock))
#define REQUIRES(...) THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define ACQUIRES(...) THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRES(...) THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define RELEASES(...) THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS THREAD_ANNOTATION(no_thread_safety_analysis)

// Whether this is a build for AddressSanitizer or ThreadSanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

#endif
