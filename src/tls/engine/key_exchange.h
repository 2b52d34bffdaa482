// RSA-PSS signatures of a TLS 1.2 server's key exchange. RFC 8446 4.2.3 lets a server make one for a client that offers
// it, in 1.2 as well, and OpenSSL's do where they go by their own order. mbedTLS 3.6.6 offers PSS for 1.3, and refuses
// it in 1.2; releases before it took it.
//
// Two functions of mbedTLS's that its libraries call through the dynamic linker are ours, as arithmetic.c's are. One
// ends the reading of a message: once the transcript has the message as it came, the mark of its signature, if that is
// of PSS, becomes PKCS #1's with the same hash, which mbedTLS takes. The other verifies that one signature, as PSS and
// nothing else. So a change on the way fails at the signature or at the transcript, as ever, and wherever the second
// function were not called, mbedTLS would find a PKCS #1 signature that is none. Which versions are offered, and what
// guards against a downgrade, is as it was.

#ifndef BITFLOW_SRC_TLS_ENGINE_KEY_EXCHANGE_H
#define BITFLOW_SRC_TLS_ENGINE_KEY_EXCHANGE_H

// How often this thread has come to each of the two functions.
struct key_exchange_counts {
    unsigned long messages;
    unsigned long signatures;
};
extern _Thread_local struct key_exchange_counts key_exchange_counts;

// At the end of a handshake: nothing of it is left in the thread.
void key_exchange_leave_thread(void);

#endif
