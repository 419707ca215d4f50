// Every call, from the OpenAPI document of the service that is asked. No validator elsewhere is called.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#calls", deepLinking: true, validatorUrl: null });
