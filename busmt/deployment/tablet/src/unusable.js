/** An image that cannot be used; the message is for the person who opened it. */
export class Unusable extends Error {}
